-- complete: a task with retention has succeeded; it, and its result in the same step, stay until expires_at.
-- KEYS: [9] completed (see exchange.lua).
-- Arguments: id, key (its hash), msg, unique_key, expires_at (unix s), ttl (s until then; 0: never), result (empty:
-- none is stored), lookup_prefix, result_prefix (both empty where these keys are written elsewhere).
local function complete(id, key, msg, unique_key, expires_at, ttl, result, lookup_prefix, result_prefix)
  if result ~= '' and result_prefix ~= '' then
    if ttl == '0' then
      redis.call('SET', result_prefix .. id, result)
    else
      redis.call('SET', result_prefix .. id, result, 'EX', ttl)
    end
  end
  unlock(id, unique_key)
  if lookup_prefix ~= '' and ttl ~= '0' then redis.call('EXPIRE', lookup_prefix .. id, ttl) end
  if result == '' then
    store(key, msg, 'state', 'completed')
  else
    store(key, msg, 'state', 'completed', 'result', result)
  end
  redis.call('ZADD', KEYS[9], expires_at, id)
end
