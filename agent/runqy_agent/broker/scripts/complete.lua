-- complete: a task with retention has succeeded; it, and its result in the same step, stay until expires_at.
-- KEYS: [2] active, [3] lease, [9] completed (see exchange.lua).
-- Arguments: id, held_until, msg, unique_key, expires_at (unix s), ttl (s until then; 0: never), result (empty:
-- none is stored), task_prefix, lookup_prefix, result_prefix (both empty where these keys are written elsewhere).
-- Returns: 1, or 0 if this worker no longer holds the task and nothing was changed.
local function complete(id, held_until, msg, unique_key, expires_at, ttl, result, task_prefix, lookup_prefix, result_prefix)
  if not release(id, held_until) then return 0 end
  redis.call('ZADD', KEYS[9], expires_at, id)
  if result == '' then
    store(task_prefix .. id, msg, 'state', 'completed')
  else
    store(task_prefix .. id, msg, 'state', 'completed', 'result', result)
    if result_prefix ~= '' then
      redis.call('SET', result_prefix .. id, result)
      if ttl ~= '0' then redis.call('EXPIRE', result_prefix .. id, ttl) end
    end
  end
  unlock(id, unique_key)
  if lookup_prefix ~= '' and ttl ~= '0' then redis.call('EXPIRE', lookup_prefix .. id, ttl) end
  return 1
end
