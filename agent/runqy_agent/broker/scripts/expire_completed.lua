-- expire_completed: completed tasks whose time is over are deleted.
-- KEYS: [1] completed
-- ARGV: [1] now (unix s), [2] how many at most, [3] task_prefix
-- Returns: how many were deleted.
local ids = redis.call('ZRANGEBYSCORE', KEYS[1], '-inf', ARGV[1], 'LIMIT', 0, ARGV[2])
for _, id in ipairs(ids) do
  redis.call('DEL', ARGV[3] .. id)
  redis.call('ZREM', KEYS[1], id)
end
return #ids
