-- expire_archived: archived tasks older than their ttl_archived, or than the default where they carry none, are
-- deleted, and with them their uniqueness locks, which no other step would release. Looks at one window of the set,
-- oldest first.
-- KEYS: [1] archived
-- ARGV: [1] now (unix s), [2] offset of the window, [3] its size, [4] default ttl (s; 0: never), [5] task_prefix
-- Returns: how many entries were looked at, how many of them were deleted.
--@include unlock.lua
local entries = redis.call('ZRANGE', KEYS[1], ARGV[2], ARGV[2] + ARGV[3] - 1, 'WITHSCORES')
local deleted = 0
for at = 1, #entries, 2 do
  local key = ARGV[5] .. entries[at]
  local ttl = tonumber(redis.call('HGET', key, 'ttl_archived') or ARGV[4])
  if ttl and ttl > 0 and tonumber(entries[at + 1]) + ttl <= tonumber(ARGV[1]) then
    redis.call('ZREM', KEYS[1], entries[at])
    unlock(entries[at], redis.call('HGET', key, 'unique_key') or '')
    redis.call('DEL', key)
    deleted = deleted + 1
  end
end
return { #entries / 2, deleted }
