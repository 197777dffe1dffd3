-- adopt: ids that sit in active without a lease (some worker died between moving them there and the next step) get one
-- that ends now, so that a recoverer finds them once it is sure that nobody is about to give them one; and so do those
-- whose lease ends in more than a year: no worker asks for that. An id with a lease that is over and without a place in
-- active gets one. A second id of a task that is in another place leaves
-- active.
-- KEYS: [1] active, [2] lease
-- ARGV: [1] now (unix s), [2] task_prefix, [3] queue_prefix
-- Returns: the ids that were given a lease, second ids that were removed.
local active, lease = KEYS[1], KEYS[2]
--@include refused.lua
--@include elsewhere.lua
--@include forget.lua
redis.call('ZREM', lease, '') -- a first write that a full Redis does not refuse, so it refuses none here
local adopted, repeated, present = {}, {}, {}
for _, id in ipairs(redis.call('LRANGE', active, 0, -1)) do
  present[id] = true
  if redis.call('ZADD', lease, 'NX', ARGV[1], id) == 1 then
    local key = ARGV[2] .. id
    local state = redis.pcall('HGET', key, 'state')
    if not is_wrong_type(state) and elsewhere(id, key, state, 'active', ARGV[3]) then
      forget(id)
      repeated[#repeated + 1] = id
    else
      adopted[#adopted + 1] = id
    end
  end
end
for _, id in ipairs(redis.call('ZRANGEBYSCORE', lease, ARGV[1] + 365 * 86400, '+inf')) do
  redis.call('ZADD', lease, 'XX', ARGV[1], id)
  adopted[#adopted + 1] = id
end
for _, id in ipairs(redis.call('ZRANGEBYSCORE', lease, '-inf', '(' .. ARGV[1])) do
  if not present[id] then
    redis.call('LPUSH', active, id)
    adopted[#adopted + 1] = id
  end
end
return { adopted, repeated }
