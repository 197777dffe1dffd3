-- reclaim: the tasks that an exchange has taken whose reply was lost. Its lease is like no other's, so they are found
-- by it. Changes nothing.
-- KEYS: [1] lease
-- ARGV: [1] lease_until of that exchange (unix s, exactly as it was sent), [2] task_prefix
-- Returns: for each task its id and its fields (see read.lua).
--@include refused.lua
local taken = {}
for _, id in ipairs(redis.call('ZRANGEBYSCORE', KEYS[1], ARGV[1], ARGV[1])) do
  local key = ARGV[2] .. id
  --@include read.lua
  if is_task then
    local at = #taken + 1
    taken[at] = id
    for f = 1, #fields do taken[at + f] = fields[f] end
  end
end
return taken
