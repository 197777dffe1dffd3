-- adopt: ids that sit in active without a lease (some worker died between moving them there and the next step) get one
-- that ends now, so that a recoverer finds them once it is sure that nobody is about to give them one.
-- KEYS: [1] active, [2] lease
-- ARGV: [1] now (unix s)
-- Returns: the ids that were given a lease.
redis.call('ZREM', KEYS[2], '') -- a first write that a full Redis does not refuse, so it refuses none here
local adopted = {}
for _, id in ipairs(redis.call('LRANGE', KEYS[1], 0, -1)) do
  if redis.call('ZADD', KEYS[2], 'NX', ARGV[1], id) == 1 then adopted[#adopted + 1] = id end
end
return adopted
