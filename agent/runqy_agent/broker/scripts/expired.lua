-- expired: what a recoverer must look at: tasks whose lease ended before the cutoff, oldest first. Changes nothing, but
-- for a lease without a task, or of a task that is in another place, which is removed.
-- KEYS: [1] lease, [2] active
-- ARGV: [1] cutoff (unix s), [2] how many at most, [3] task_prefix, [4] queue_prefix
-- Returns: { for each task: end of its lease, state (false where missing), id, its fields (see read.lua) }, ids without
--       a task, second ids.
local active, lease = KEYS[2], KEYS[1]
--@include refused.lua
--@include elsewhere.lua
--@include forget.lua
local found, dropped, repeated = {}, {}, {}
local leases = redis.call('ZRANGEBYSCORE', lease, '-inf', ARGV[1], 'WITHSCORES', 'LIMIT', 0, ARGV[2])
for at = 1, #leases, 2 do
  local id = leases[at]
  local key = ARGV[3] .. id
  --@include read.lua
  if not is_task then
    forget(id)
    dropped[#dropped + 1] = id
  elseif elsewhere(id, key, state, 'active', ARGV[4]) then
    forget(id)
    repeated[#repeated + 1] = id
  else
    local n = #found
    found[n + 1], found[n + 2], found[n + 3] = leases[at + 1], state, id
    for f = 1, #fields do found[n + 3 + f] = fields[f] end
  end
end
return { found, dropped, repeated }
