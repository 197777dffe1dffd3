-- count: add n to a total and to its day, to both or to neither; the total starts again at n where it would pass
-- 2^63 - 1, and a day that begins here expires at stats_expire_at (unix seconds).
-- Arguments: total (key), day (key), n, stats_expire_at.
-- Returns: what could not be counted: 0, or n.
local function count(total, day, n, stats_expire_at)
  if n == 0 then return 0 end
  local of_day = redis.pcall('INCRBY', day, n)
  if type(of_day) ~= 'number' then return n end
  local counted = of_day ~= n or redis.pcall('EXPIREAT', day, stats_expire_at) == 1
  if counted then
    local value = redis.pcall('GET', total)
    if type(value) == 'string' and (tonumber(value) or 0) + n >= 9223372036854775807 then
      counted = not redis.pcall('SET', total, n).err
    else
      counted = type(redis.pcall('INCRBY', total, n)) == 'number'
    end
  end
  if counted then return 0 end
  redis.pcall('INCRBY', day, -n)
  return n
end
