-- take: the oldest pending tasks become active, held by the caller until lease_until. Nothing is taken from a paused
-- queue. An id without a hash is dropped from the queue and reported.
-- KEYS: [1] pending, [2] active, [3] lease, [4] paused (see exchange.lua).
-- Arguments: n (how many to take), lease_until (unix s), task_prefix.
-- Returns: taken (for each task its id and its fields, see read.lua), dropped (ids without a hash), paused (1 or 0).
local function take(n, lease_until, task_prefix)
  local taken, dropped, ids = {}, {}, {}
  local paused = redis.call('EXISTS', KEYS[4])
  if paused == 0 and n > 0 then
    local oldest = redis.call('LRANGE', KEYS[1], -n, -1)
    if #oldest > 0 then
      redis.call('LTRIM', KEYS[1], 0, -#oldest - 1)
      for i = #oldest, 1, -1 do ids[#ids + 1] = oldest[i] end
    end
  end
  for _, id in ipairs(ids) do
    local key = task_prefix .. id
    --@include read.lua
    if fields.err or (not fields[1] and redis.call('EXISTS', key) == 0) then
      dropped[#dropped + 1] = id
    else
      hold(id, lease_until)
      redis.call('HSET', key, 'state', 'active')
      if fields[2] then redis.call('HDEL', key, 'pending_since') end
      local at = #taken + 1
      taken[at] = id
      for f = 1, #fields do taken[at + f] = fields[f] end
    end
  end
  return taken, dropped, paused
end
