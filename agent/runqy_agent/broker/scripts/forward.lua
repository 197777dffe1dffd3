-- forward: tasks of sorted sets (scheduled, retry) that are due become pending, at the end of the queue; a task that
-- belongs to a group goes to the group's set instead. An id leaves its set last: where Redis refuses a part of it, it
-- is still there. So does a second id of a task that is in another place, and an id without a task.
-- KEYS: [1] pending, then the sorted sets
-- ARGV: [1] now (unix s), [2] how many of each set at most, [3] task_prefix, [4] group_prefix (empty: there are no
--       groups), [5] now (unix ns), [6] queue_prefix
-- Returns: how many left the sorted set that gave most, why others could not (empty if all could), second ids.
--@include refused.lua
--@include elsewhere.lua
local repeated = {}

local function forward(id, key, here)
  local state = redis.pcall('HGET', key, 'state')
  if is_wrong_type(state) or redis.call('EXISTS', key) == 0 then return end -- there is no task of this id
  if elsewhere(id, key, state, here, ARGV[6]) then
    repeated[#repeated + 1] = id
    return
  end
  local group = ARGV[4] ~= '' and redis.call('HGET', key, 'group')
  local reply
  if group and group ~= '' then
    redis.call('HSET', key, 'state', 'aggregating')
    reply = redis.pcall('ZADD', ARGV[4] .. group, ARGV[1], id)
  else
    redis.call('HSET', key, 'state', 'pending', 'pending_since', ARGV[5])
    reply = redis.pcall('LPUSH', KEYS[1], id)
  end
  if type(reply) == 'table' then
    redis.pcall('HSET', key, 'state', here)
    error(reply, 0)
  end
end

local most, trouble = 0, ''
for set = 2, #KEYS do
  local here = string.sub(KEYS[set], #ARGV[6] + 1)
  local left = 0
  redis.call('ZREM', KEYS[set], '') -- a first write that a full Redis does not refuse; and the last one is permitted
  for _, id in ipairs(redis.call('ZRANGEBYSCORE', KEYS[set], '-inf', ARGV[1], 'LIMIT', 0, ARGV[2])) do
    local moved, why = pcall(forward, id, ARGV[3] .. id, here)
    if moved then
      redis.call('ZREM', KEYS[set], id)
      left = left + 1
    else
      trouble = refused(why)
    end
  end
  most = math.max(most, left)
end
return { most, trouble, repeated }
