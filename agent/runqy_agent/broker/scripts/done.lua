-- done: a task without retention has succeeded and leaves Redis.
-- KEYS: [2] active, [3] lease (see exchange.lua).
-- Arguments: id, held_until, unique_key, task_prefix, lookup_prefix (empty: the server keeps no look-up key here).
-- Returns: 1, or 0 if this worker no longer holds the task and nothing was changed.
local function done(id, held_until, unique_key, task_prefix, lookup_prefix)
  if not release(id, held_until) then return 0 end
  redis.call('DEL', task_prefix .. id)
  unlock(id, unique_key)
  if lookup_prefix ~= '' then redis.call('DEL', lookup_prefix .. id) end
  return 1
end
