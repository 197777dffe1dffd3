-- watch: take one of the two places from which the pending list of a queue is watched, or keep it for longer.
-- KEYS: [1] first place, [2] second place, [3] turn, [4] paused
-- ARGV: [1] who asks, [2] how long a place is kept (ms), [3] how long a turn is kept (ms)
-- Returns: the place (1 or 2; 0: both are taken by others), paused (1 or 0).
redis.call('PEXPIRE', KEYS[3], ARGV[3]) -- a first write that a full Redis does not refuse, so it refuses none here
local paused = redis.call('EXISTS', KEYS[4])
for place = 1, 2 do
  local holder = redis.call('GET', KEYS[place])
  if not holder or holder == ARGV[1] then
    redis.call('SET', KEYS[place], ARGV[1], 'PX', ARGV[2])
    if place == 1 and redis.call('GET', KEYS[2]) == ARGV[1] then
      redis.call('DEL', KEYS[2])
      if redis.call('EXISTS', KEYS[3]) == 0 then
        redis.call('RPUSH', KEYS[3], 'place')
        redis.call('PEXPIRE', KEYS[3], ARGV[3])
      end
    end
    return { place, paused }
  end
end
return { 0, paused }
