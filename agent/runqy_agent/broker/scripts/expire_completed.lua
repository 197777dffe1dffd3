-- expire_completed: completed tasks whose time is over are deleted, with what the server keeps to find them. A second id
-- of a task that is in another place leaves this one only.
-- KEYS: [1] completed
-- ARGV: [1] now (unix s), [2] how many at most, [3] task_prefix, [4] queue_prefix, [5] lookup_prefix (see
--       forget_lookup.lua), [6] queue
-- Returns: the ids that left.
--@include refused.lua
--@include elsewhere.lua
--@include delete.lua
--@include forget_lookup.lua
local ids = redis.call('ZRANGEBYSCORE', KEYS[1], '-inf', ARGV[1], 'LIMIT', 0, ARGV[2])
for _, id in ipairs(ids) do
  delete(id, ARGV[3] .. id, 'completed', ARGV[4])
  forget_lookup(id, ARGV[5], ARGV[6])
  redis.call('ZREM', KEYS[1], id)
end
return ids
