-- beat: asynq's record of this worker and of the tasks it is running, replaced as a whole.
-- KEYS: [1] asynq:servers:{instance}, [2] the hash of its WorkerInfo records
-- ARGV: [1] ttl (s), [2] ServerInfo, then two values for each running task: id, WorkerInfo
-- Returns: nothing.
redis.call('DEL', KEYS[2]) -- the first write is one that a full Redis does not refuse, so it refuses none here
redis.call('SETEX', KEYS[1], ARGV[1], ARGV[2])
for at = 3, #ARGV, 2 do redis.call('HSET', KEYS[2], ARGV[at], ARGV[at + 1]) end
if #ARGV > 2 then redis.call('EXPIRE', KEYS[2], ARGV[1]) end
return redis.status_reply('OK')
