-- archive: a task has failed for good. Archived tasks that died before cutoff, and all beyond the newest `keep`, are
-- deleted with their hashes.
-- KEYS: [2] active, [3] lease, [11] archived (see exchange.lua).
-- Arguments: id, held_until, msg, now (unix s), ttl (s; 0: never), task_prefix, lookup_prefix.
-- Returns: 1, or 0 if this worker no longer holds the task and nothing was changed.
local function archive(id, held_until, msg, now, ttl, task_prefix, lookup_prefix)
  if not release(id, held_until) then return 0 end
  redis.call('ZADD', KEYS[11], now, id)
  store(task_prefix .. id, msg, 'state', 'archived')
  if lookup_prefix ~= '' and ttl ~= '0' then redis.call('EXPIRE', lookup_prefix .. id, ttl) end
  return 1
end

-- trim_archive: the bounds of the archive, kept once for each batch that archived something.
-- Arguments: cutoff (unix s), keep (number of entries), task_prefix.
local function trim_archive(cutoff, keep, task_prefix)
  local old = redis.call('ZRANGEBYSCORE', KEYS[11], '-inf', cutoff, 'LIMIT', 0, 1000)
  local spare = redis.call('ZCARD', KEYS[11]) - #old - keep
  if spare > 0 then
    for _, id in ipairs(redis.call('ZRANGE', KEYS[11], #old, #old + math.min(spare, 1000) - 1)) do
      old[#old + 1] = id
    end
  end
  for _, id in ipairs(old) do
    redis.call('ZREM', KEYS[11], id)
    redis.call('DEL', task_prefix .. id)
  end
end
