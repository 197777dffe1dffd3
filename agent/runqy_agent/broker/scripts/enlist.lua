-- enlist: members of a sorted set live on until their score.
-- KEYS: [1] the sorted set
-- ARGV: two values for each member: score (unix s), member
-- Returns: nothing.
redis.call('ZREM', KEYS[1], '') -- a first write that a full Redis does not refuse, so it refuses none here
redis.call('ZADD', KEYS[1], unpack(ARGV))
return redis.status_reply('OK')
