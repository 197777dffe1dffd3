-- lease_of: the end of a task's lease, if it is this worker's. The locals active and lease name the keys.
-- Arguments: id, held_until (unix seconds, see ours.lua).
-- Returns: the end as Redis knows it; false if the lease is somebody else's or gone.
local function lease_of(id, held_until)
  local ends = redis.call('ZSCORE', lease, id)
  return is_ours(ends, held_until) and ends
end

-- leave: take an id out of active; end_lease follows, or rejoin.
-- Arguments: id.
-- Returns: true if it was there.
local function leave(id)
  return redis.call('LREM', active, -1, id) == 1
end

-- rejoin: undo leave.
-- Arguments: id, ends (see lease_of).
local function rejoin(id, ends)
  redis.call('LPUSH', active, id)
end

-- end_lease: the last part of a step.
-- Arguments: id.
local function end_lease(id)
  redis.call('ZREM', lease, id)
end

-- lease_all: ids get a lease; join_all follows, or leave_all.
-- Arguments: ids, lease_until (unix s).
local function lease_all(ids, lease_until)
  local pairs = {}
  for at, id in ipairs(ids) do pairs[2 * at - 1], pairs[2 * at] = lease_until, id end
  redis.call('ZADD', lease, unpack(pairs))
end

-- leave_all: undo lease_all and join_all, whether that was made or refused.
-- Arguments: ids.
local function leave_all(ids)
  for _, id in ipairs(ids) do redis.pcall('LREM', active, 1, id) end
  redis.call('ZREM', lease, unpack(ids))
end

-- join_all: ids that were given a lease become active.
-- Arguments: ids.
local function join_all(ids)
  redis.call('LPUSH', active, unpack(ids))
end
