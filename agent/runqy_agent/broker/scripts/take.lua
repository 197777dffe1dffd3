-- take: the oldest pending tasks become active, held by the caller until lease_until. Nothing is taken from a paused
-- queue. An id without a task is dropped from the queue, and so is a second id of a task that is elsewhere, or comes
-- twice. Raises where Redis refuses a part of it: then nothing is taken and no id has moved.
-- KEYS: [1] pending, [2] active, [3] lease, [4] paused (see exchange.lua).
-- Arguments: n (how many to take), lease_until (unix s), task_prefix, queue_prefix.
-- Returns: taken (for each task its id and its fields, see read.lua), dropped (ids without a task), repeated (second
-- ids), paused (1 or 0).
local function begin(ids, task_prefix)
  join_all(ids)
  for _, id in ipairs(ids) do redis.call('HSET', task_prefix .. id, 'state', 'active') end
end

local function take(n, lease_until, task_prefix, queue_prefix)
  if redis.call('EXISTS', KEYS[4]) == 1 then return {}, {}, {}, 1 end
  local oldest = n > 0 and redis.call('LRANGE', KEYS[1], -n, -1) or {}
  if #oldest == 0 then return {}, {}, {}, 0 end
  redis.call('LTRIM', KEYS[1], 0, -1) -- changes nothing; whether it is permitted must be known before the last part
  local taken, dropped, repeated, ids, waited, seen = {}, {}, {}, {}, {}, {}
  for i = #oldest, 1, -1 do
    local id = oldest[i]
    local key = task_prefix .. id
    --@include read.lua
    if not is_task then
      dropped[#dropped + 1] = id
    elseif seen[id] or elsewhere(id, key, state, 'pending', queue_prefix) then
      repeated[#repeated + 1] = id
    else
      seen[id] = true
      ids[#ids + 1] = id
      if fields[2] then waited[#waited + 1] = key end
      local at = #taken + 1
      taken[at] = id
      for f = 1, #fields do taken[at + f] = fields[f] end
    end
  end
  if #ids > 0 then
    lease_all(ids, lease_until)
    local began, why = pcall(begin, ids, task_prefix)
    if not began then
      leave_all(ids)
      error(why, 0)
    end
  end
  redis.call('LTRIM', KEYS[1], 0, -#oldest - 1)
  for _, key in ipairs(waited) do redis.pcall('HDEL', key, 'pending_since') end
  return taken, dropped, repeated, 0
end
