-- unwatch: a worker leaves the slots of some queues, if it has them, and wakes another worker for each queue.
-- KEYS: [1] slots (see watch.lua), then the wakeup list of each queue
-- ARGV: [1] who leaves, [2] the wakeup, [3] how many may wait for workers, [4] how long they are kept (ms), then the queues
-- Returns: nothing.
for at = 5, #ARGV do
  for slot = 1, 2 do
    local field = slot .. ':' .. ARGV[at]
    if redis.call('HGET', KEYS[1], field) == ARGV[1] then redis.call('HDEL', KEYS[1], field) end
  end
  local wakeup = KEYS[at - 3]
  if redis.call('LLEN', wakeup) < tonumber(ARGV[3]) then redis.call('RPUSH', wakeup, ARGV[2]) end
  redis.call('PEXPIRE', wakeup, ARGV[4])
end
return redis.status_reply('OK')
