-- expired: what a recoverer must look at: tasks whose lease ended before the cutoff, oldest first. Changes nothing,
-- but for a lease without a task, which is removed.
-- KEYS: [1] lease, [2] active
-- ARGV: [1] cutoff (unix s), [2] how many at most, [3] task_prefix
-- Returns: for each task five values: id, end of its lease, msg, state, ttl_archived (false where missing).
local found = {}
local leases = redis.call('ZRANGEBYSCORE', KEYS[1], '-inf', ARGV[1], 'WITHSCORES', 'LIMIT', 0, ARGV[2])
for at = 1, #leases, 2 do
  local id, lease = leases[at], leases[at + 1]
  local key = ARGV[3] .. id
  local fields = redis.pcall('HMGET', key, 'msg', 'state', 'ttl_archived')
  if fields.err or redis.call('EXISTS', key) == 0 then
    redis.call('ZREM', KEYS[1], id)
    redis.call('LREM', KEYS[2], 0, id)
  else
    local n = #found
    found[n + 1], found[n + 2], found[n + 3], found[n + 4], found[n + 5] = id, lease, fields[1], fields[2], fields[3]
  end
end
return found
