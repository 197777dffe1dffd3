-- count: add n to a total and to its day; the total starts again at n where it would pass 2^63 - 1, and a day that
-- begins here expires at stats_expire_at (unix seconds).
-- Arguments: total (key), day (key), n, stats_expire_at.
local function count(total, day, n, stats_expire_at)
  if n == 0 then return end
  if redis.call('INCRBY', day, n) == n then redis.call('EXPIREAT', day, stats_expire_at) end
  local value = redis.call('GET', total)
  if value and tonumber(value) + n >= 9223372036854775807 then
    redis.call('SET', total, n)
  else
    redis.call('INCRBY', total, n)
  end
end
