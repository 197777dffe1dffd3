-- expired: what a recoverer must look at: tasks whose lease ended before the cutoff, oldest first. Changes nothing,
-- but for a lease without a task, which is removed.
-- KEYS: [1] lease, [2] active
-- ARGV: [1] cutoff (unix s), [2] how many at most, [3] task_prefix
-- Returns: for each task: end of its lease, state (false where missing), id, its fields (see read.lua).
local active, lease = KEYS[2], KEYS[1]
--@include forget.lua
local found = {}
local leases = redis.call('ZRANGEBYSCORE', lease, '-inf', ARGV[1], 'WITHSCORES', 'LIMIT', 0, ARGV[2])
for at = 1, #leases, 2 do
  local id = leases[at]
  local key = ARGV[3] .. id
  --@include read.lua
  if fields.err or redis.call('EXISTS', key) == 0 then
    forget(id)
  else
    local n = #found
    found[n + 1], found[n + 2], found[n + 3] = leases[at + 1], redis.call('HGET', key, 'state'), id
    for f = 1, #fields do found[n + 3 + f] = fields[f] end
  end
end
return found
