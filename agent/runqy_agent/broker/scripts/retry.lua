-- retry: a task has failed and will be tried again at due. Its uniqueness lock stays.
-- KEYS: [2] active, [3] lease, [10] retry (see exchange.lua).
-- Arguments: id, held_until, msg (with its error and count already in it), due (unix s), task_prefix.
-- Returns: 1, or 0 if this worker no longer holds the task and nothing was changed.
local function retry(id, held_until, msg, due, task_prefix)
  if not release(id, held_until) then return 0 end
  redis.call('ZADD', KEYS[10], due, id)
  store(task_prefix .. id, msg, 'state', 'retry')
  return 1
end
