-- adopt: ids whose score in active cannot be the end of a lease, because it is more than a year away (another program
-- counts in milliseconds, say), get one that ends now, so that a recoverer finds them.
-- KEYS: [1] active, [2] lease (the same key here)
-- ARGV: [1] now (unix s)
-- Returns: the ids that were given a lease, second ids that were removed (none here).
redis.call('ZREM', KEYS[2], '') -- a first write that a full Redis does not refuse, so it refuses none here
local ids = redis.call('ZRANGEBYSCORE', KEYS[2], ARGV[1] + 365 * 86400, '+inf')
for _, id in ipairs(ids) do redis.call('ZADD', KEYS[2], 'XX', ARGV[1], id) end
return { ids, {} }
