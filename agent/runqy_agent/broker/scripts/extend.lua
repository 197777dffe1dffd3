-- extend: leases that this worker still holds end later. A lease that is gone is not made again, and one of somebody
-- else's is not touched.
-- KEYS: [1] lease
-- ARGV: three values for each task: id, held_until (unix s), new end of its lease (unix s, at the same fraction)
-- Returns: for each task 1, or 0 if it is no longer held.
--@include ours.lua
redis.call('ZREM', KEYS[1], '') -- a first write that a full Redis does not refuse, so it refuses none here
local held = {}
for at = 1, #ARGV, 3 do
  local ours = is_ours(redis.call('ZSCORE', KEYS[1], ARGV[at]), ARGV[at + 1])
  if ours then redis.call('ZADD', KEYS[1], 'XX', 'GT', ARGV[at + 2], ARGV[at]) end
  held[#held + 1] = ours and 1 or 0
end
return held
