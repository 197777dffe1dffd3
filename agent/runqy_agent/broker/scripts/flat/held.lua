-- release: take an id out of active, if this worker still holds it. Active is a sorted set here: id to the end of its
-- lease. The local active names it.
-- If the lease is somebody else's, nothing changes.
-- Arguments: id, held_until (unix seconds, the latest end of lease this worker asked for).
-- Returns: true if the task was held and now belongs to the caller's step; false if nothing changed.
local function release(id, held_until)
  if not is_ours(redis.call('ZSCORE', active, id), held_until) then return false end
  redis.call('ZREM', active, id)
  return true
end

-- hold: an id becomes active, held by the caller until lease_until. A client may use the id of an older task again,
-- which must not be forwarded or deleted as that older one: so it leaves the sets where that may stand.
-- KEYS: [9] completed, [10] retry, [11] archived (see exchange.lua).
-- Arguments: id, lease_until (unix s).
local function hold(id, lease_until)
  redis.call('ZADD', active, lease_until, id)
  for set = 9, 11 do redis.call('ZREM', KEYS[set], id) end
end
