-- requeue: a task goes back to the head of its queue, next to be taken; nothing is counted.
-- KEYS: [1] pending, [2] active, [3] lease (see exchange.lua).
-- Arguments: id, held_until, pending_since (unix ns), task_prefix.
-- Returns: 1, or 0 if this worker no longer holds the task and nothing was changed.
local function requeue(id, held_until, pending_since, task_prefix)
  if not release(id, held_until) then return 0 end
  redis.call('RPUSH', KEYS[1], id)
  redis.call('HSET', task_prefix .. id, 'state', 'pending', 'pending_since', pending_since)
  return 1
end
