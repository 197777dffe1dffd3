-- extend: leases that this worker still holds end later. A lease that is gone is not made again, and one that ends
-- later than this worker asked for belongs to somebody else.
-- KEYS: [1] lease
-- ARGV: [1] new end of the leases (unix s), then two values for each task: id, held_until (unix s)
-- Returns: for each task 1, or 0 if it is no longer held.
redis.call('ZREM', KEYS[1], '') -- a first write that a full Redis does not refuse, so it refuses none here
local held = {}
for at = 2, #ARGV, 2 do
  local lease = redis.call('ZSCORE', KEYS[1], ARGV[at])
  local ours = lease and tonumber(lease) <= tonumber(ARGV[at + 1])
  if ours then redis.call('ZADD', KEYS[1], 'XX', 'GT', ARGV[1], ARGV[at]) end
  held[#held + 1] = ours and 1 or 0
end
return held
