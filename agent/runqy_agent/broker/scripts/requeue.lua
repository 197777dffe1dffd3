-- requeue: a task goes back to the head of its queue, next to be taken; nothing is counted.
-- KEYS: [1] pending (see exchange.lua).
-- Arguments: id, key (its hash), pending_since (unix ns).
local function requeue(id, key, pending_since)
  redis.call('RPUSH', KEYS[1], id)
  local written = redis.pcall('HSET', key, 'state', 'pending', 'pending_since', pending_since)
  if type(written) == 'table' then
    redis.call('LTRIM', KEYS[1], 0, -2) -- the step is undone; no other could undo it without knowing the former state
    error(written.err, 0)
  end
end
