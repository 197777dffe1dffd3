-- expire_archived: archived tasks older than their ttl_archived, or than the default where they carry none, are
-- deleted, and with them their uniqueness locks, which no other step would release, and what the server keeps to find
-- them. Looks at one window of the set, oldest first. A second id of a task that is in another place leaves this one
-- only.
-- KEYS: [1] archived
-- ARGV: [1] now (unix s), [2] offset of the window, [3] its size, [4] default ttl (s; 0: never), [5] task_prefix,
--       [6] queue_prefix, [7] lookup_prefix (see forget_lookup.lua), [8] queue
-- Returns: how many entries were looked at, the ids that left.
--@include refused.lua
--@include unlock.lua
--@include elsewhere.lua
--@include forget_lookup.lua
local entries = redis.call('ZRANGE', KEYS[1], ARGV[2], ARGV[2] + ARGV[3] - 1, 'WITHSCORES')
local left = {}
for at = 1, #entries, 2 do
  local id = entries[at]
  local key = ARGV[5] .. id
  local fields = redis.pcall('HMGET', key, 'ttl_archived', 'unique_key', 'state')
  if is_wrong_type(fields) then fields = {} end
  local ttl = tonumber(string.match(fields[1] or '', '^%d+$') or ARGV[4])
  if ttl > 0 and tonumber(entries[at + 1]) + ttl <= tonumber(ARGV[1]) then
    if not elsewhere(id, key, fields[3], 'archived', ARGV[6]) then
      unlock(id, fields[2] or '')
      redis.call('DEL', key)
      forget_lookup(id, ARGV[7], ARGV[8])
    end
    redis.call('ZREM', KEYS[1], id)
    left[#left + 1] = id
  end
end
return { #entries / 2, left }
