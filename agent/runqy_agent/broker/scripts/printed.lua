-- printed: lines that the processes of this worker have printed, for the runqy server.
-- KEYS: [1] the list
-- ARGV: [1] ttl (s), [2] how many lines are kept, then the new lines
-- Returns: 1 if the list was there, 0 if not.
local there = redis.call('EXPIRE', KEYS[1], ARGV[1]) -- a first write that a full Redis does not refuse, as in record
if #ARGV > 2 then
    redis.call('RPUSH', KEYS[1], unpack(ARGV, 3))
    redis.call('LTRIM', KEYS[1], -ARGV[2], -1)
    redis.call('EXPIRE', KEYS[1], ARGV[1])
end
return there
