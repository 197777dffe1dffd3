-- forward: tasks of one sorted set (scheduled or retry) that are due become pending, at the end of the queue; a task
-- that belongs to a group goes to the group's set instead.
-- KEYS: [1] scheduled or retry, [2] pending
-- ARGV: [1] now (unix s), [2] how many at most, [3] task_prefix, [4] group_prefix, [5] now (unix ns)
-- Returns: how many left the sorted set.
local ids = redis.call('ZRANGEBYSCORE', KEYS[1], '-inf', ARGV[1], 'LIMIT', 0, ARGV[2])
for _, id in ipairs(ids) do
  local key = ARGV[3] .. id
  redis.call('ZREM', KEYS[1], id)
  local group = redis.call('HGET', key, 'group')
  if group and group ~= '' then
    redis.call('ZADD', ARGV[4] .. group, ARGV[1], id)
    redis.call('HSET', key, 'state', 'aggregating')
  elseif redis.call('EXISTS', key) == 1 then
    redis.call('LPUSH', KEYS[2], id)
    redis.call('HSET', key, 'state', 'pending', 'pending_since', ARGV[5])
  end
end
return #ids
