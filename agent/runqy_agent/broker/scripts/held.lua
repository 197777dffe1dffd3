-- release: take an id out of active and lease (so the locals are called that name the keys), if this worker still
-- holds it. If the lease is somebody else's, and when the id is in only one of the two, nothing changes.
-- Arguments: id, held_until (unix seconds, see ours.lua).
-- Returns: true if the task was held and now belongs to the caller's step; false if nothing changed.
local function release(id, held_until)
  if not is_ours(redis.call('ZSCORE', lease, id), held_until) then return false end
  if redis.call('LREM', active, -1, id) == 0 then return false end
  redis.call('ZREM', lease, id)
  return true
end

-- hold: an id becomes active, held by the caller until lease_until.
-- Arguments: id, lease_until (unix s).
local function hold(id, lease_until)
  redis.call('LPUSH', active, id)
  redis.call('ZADD', lease, lease_until, id)
end
