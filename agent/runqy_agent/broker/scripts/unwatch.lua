-- unwatch: a worker that has no room gives up its place, and others get their turn: as many as there may be work for,
-- two at most (they pass it on), or one if a place is free.
-- KEYS: [1] first place, [2] second place, [3] turn, [4] paused, [5] pending
-- ARGV: [1] who leaves, [2] how long a turn is kept (ms)
-- Returns: nothing.
for place = 1, 2 do
  if redis.call('GET', KEYS[place]) == ARGV[1] then redis.call('DEL', KEYS[place]) end
end
local work = 0
if redis.call('EXISTS', KEYS[4]) == 0 then work = redis.call('LLEN', KEYS[5]) end
local turns = math.min(work, 2)
if turns == 0 and redis.call('EXISTS', KEYS[1], KEYS[2]) < 2 then turns = 1 end
for _ = redis.call('LLEN', KEYS[3]) + 1, turns do redis.call('RPUSH', KEYS[3], work > 0 and 'work' or 'place') end
redis.call('PEXPIRE', KEYS[3], ARGV[2])
return redis.status_reply('OK')
