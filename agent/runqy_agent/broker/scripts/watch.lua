-- watch: take slots from which queues are watched where nobody alive has them, or keep them.
-- KEYS: [1] slots, a hash: '1:<queue>' and '2:<queue>' to who has it, [2] this worker's sign of life
-- ARGV: [1] who asks, [2] what signs of life are called before the who, [3] how long this one is kept (ms),
--       [4] how long the hash is kept (ms), then the queues
-- Returns: for each queue the slot (1 or 2; 0: others have both).
redis.call('PEXPIRE', KEYS[1], ARGV[4]) -- a first write that a full Redis does not refuse, so it refuses none here
redis.call('SET', KEYS[2], '', 'PX', ARGV[3])
if #ARGV == 4 then return {} end
local me, known = ARGV[1], { [ARGV[1]] = true }
local function is_taken(who)
  if who and known[who] == nil then known[who] = redis.call('EXISTS', ARGV[2] .. who) == 1 end
  return who and who ~= me and known[who]
end
local fields = {}
for at = 5, #ARGV do
  fields[#fields + 1] = '1:' .. ARGV[at]
  fields[#fields + 1] = '2:' .. ARGV[at]
end
local holders = redis.call('HMGET', KEYS[1], unpack(fields))
local numbers, taken, left = {}, {}, {}
for at = 1, #fields, 2 do
  local number = 0
  if not is_taken(holders[at]) then
    number = 1
    if holders[at + 1] == me then left[#left + 1] = fields[at + 1] end
  elseif not is_taken(holders[at + 1]) then
    number = 2
  end
  numbers[#numbers + 1] = number
  local slot = at + number - 1
  if number > 0 and holders[slot] ~= me then
    taken[#taken + 1] = fields[slot]
    taken[#taken + 1] = me
  end
end
if #left > 0 then redis.call('HDEL', KEYS[1], unpack(left)) end
if #taken > 0 then
  redis.call('HSET', KEYS[1], unpack(taken))
  redis.call('PEXPIRE', KEYS[1], ARGV[4])
end
return numbers
