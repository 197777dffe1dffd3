-- archive: a task has failed for good.
-- KEYS: [11] archived (see exchange.lua).
-- Arguments: id, key (its hash), msg, now (unix s), ttl (s; 0: never), lookup_prefix.
local function archive(id, key, msg, now, ttl, lookup_prefix)
  if lookup_prefix ~= '' and ttl ~= '0' then redis.call('EXPIRE', lookup_prefix .. id, ttl) end
  store(key, msg, 'state', 'archived')
  redis.call('ZADD', KEYS[11], now, id)
end

-- trim_archive: archived tasks that died before cutoff, and all beyond the newest `keep`, are deleted with their
-- hashes; kept once for each batch that archived something.
-- KEYS: [11] archived (see exchange.lua).
-- Arguments: cutoff (unix s), keep (number of entries), task_prefix, queue_prefix.
local function trim_archive(cutoff, keep, task_prefix, queue_prefix)
  local old = redis.call('ZRANGEBYSCORE', KEYS[11], '-inf', cutoff, 'LIMIT', 0, 1000)
  local spare = redis.call('ZCARD', KEYS[11]) - #old - keep
  if spare > 0 then
    for _, id in ipairs(redis.call('ZRANGE', KEYS[11], #old, #old + math.min(spare, 1000) - 1)) do
      old[#old + 1] = id
    end
  end
  for _, id in ipairs(old) do
    delete(id, task_prefix .. id, 'archived', queue_prefix)
    redis.call('ZREM', KEYS[11], id)
  end
end
