-- release: take an id out of active and lease, if this worker still holds it.
-- A lease that ends later than the one this worker asked for belongs to somebody else, who took the task after
-- ours had ended; then, and when the id is in only one of the two, nothing changes.
-- Arguments: id, held_until (unix seconds, the latest end of lease this worker asked for).
-- Returns: true if the task was held and now belongs to the caller's step; false if nothing changed.
local function release(id, held_until)
  local lease = redis.call('ZSCORE', KEYS[3], id)
  if not lease or tonumber(lease) > tonumber(held_until) then return false end
  if redis.call('LREM', KEYS[2], -1, id) == 0 then return false end
  redis.call('ZREM', KEYS[3], id)
  return true
end
