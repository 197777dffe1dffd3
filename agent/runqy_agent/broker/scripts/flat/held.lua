-- lease_of: the end of a task's lease, if it is this worker's. Active is a sorted set here: id to the end of its lease;
-- the local active names it.
-- Arguments: id, held_until (unix seconds, see ours.lua).
-- Returns: the end as Redis knows it; false if the lease is somebody else's or gone.
local function lease_of(id, held_until)
  local ends = redis.call('ZSCORE', active, id)
  return is_ours(ends, held_until) and ends
end

-- leave: take an id out of active; end_lease follows, or rejoin.
-- Arguments: id.
-- Returns: true if it was there.
local function leave(id)
  return redis.call('ZREM', active, id) == 1
end

-- rejoin: undo leave.
-- Arguments: id, ends (see lease_of).
local function rejoin(id, ends)
  redis.call('ZADD', active, ends, id)
end

-- end_lease: nothing is left to be done, the lease is gone with the id.
-- Arguments: id.
local function end_lease(id) end

-- lease_all: ids become active with a lease; join_all follows, or leave_all.
-- Arguments: ids, lease_until (unix s).
local function lease_all(ids, lease_until)
  local pairs = {}
  for at, id in ipairs(ids) do pairs[2 * at - 1], pairs[2 * at] = lease_until, id end
  redis.call('ZREM', active, '') -- changes nothing; whether it can be undone must be known before
  redis.call('ZADD', active, unpack(pairs))
end

-- leave_all: undo lease_all and join_all, whether that was made or refused.
-- Arguments: ids.
local function leave_all(ids)
  redis.call('ZREM', active, unpack(ids))
end

-- join_all: a client may use the id of an older task again, which must not be forwarded or deleted as that older one:
-- so it leaves the sets where that may stand.
-- KEYS: [9] completed, [10] retry, [11] archived (see exchange.lua).
-- Arguments: ids.
local function join_all(ids)
  for set = 9, 11 do redis.call('ZREM', KEYS[set], unpack(ids)) end
end
