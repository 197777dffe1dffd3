-- reclaim: the tasks that an exchange has taken whose reply was lost. Its lease is like no other's, so they are found
-- by it. Changes nothing.
-- KEYS: [1] lease
-- ARGV: [1] lease_until of that exchange (unix s, exactly as it was sent), [2] task_prefix
-- Returns: for each task seven values, as in take.lua.
local taken = {}
for _, id in ipairs(redis.call('ZRANGEBYSCORE', KEYS[1], ARGV[1], ARGV[1])) do
  local fields = redis.call('HMGET', ARGV[2] .. id, 'msg', 'pending_since', 'ttl_completed', 'ttl_archived',
    'pending_timeout', 'active_timeout')
  local at = #taken
  taken[at + 1] = id
  for f = 1, 6 do taken[at + 1 + f] = fields[f] end
end
return taken
