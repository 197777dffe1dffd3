-- forward: tasks of sorted sets (scheduled, retry) that are due become pending, at the end of the queue; a task that
-- belongs to a group goes to the group's set instead.
-- KEYS: [1] pending, then the sorted sets
-- ARGV: [1] now (unix s), [2] how many of each set at most, [3] task_prefix, [4] group_prefix (empty: there are no
--       groups), [5] now (unix ns)
-- Returns: how many left the sorted set that gave most.
local most = 0
for set = 2, #KEYS do
  local ids = redis.call('ZRANGEBYSCORE', KEYS[set], '-inf', ARGV[1], 'LIMIT', 0, ARGV[2])
  for _, id in ipairs(ids) do
    local key = ARGV[3] .. id
    redis.call('ZREM', KEYS[set], id)
    local group = redis.pcall('HGET', key, 'group')
    if type(group) == 'table' then
      redis.log(redis.LOG_NOTICE, key .. ' is no hash') -- so there is no task of this id
    elseif group and group ~= '' and ARGV[4] ~= '' then
      redis.call('ZADD', ARGV[4] .. group, ARGV[1], id)
      redis.call('HSET', key, 'state', 'aggregating')
    elseif redis.call('EXISTS', key) == 1 then
      redis.call('LPUSH', KEYS[1], id)
      redis.call('HSET', key, 'state', 'pending', 'pending_since', ARGV[5])
    end
  end
  most = math.max(most, #ids)
end
return most
