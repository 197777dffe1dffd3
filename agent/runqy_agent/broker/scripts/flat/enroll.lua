-- enroll: this worker is among the workers, and ids among them whose record is gone are removed: a member of a set does
-- not expire. Where another program keeps a sorted set of expiries under this key, this worker joins it as it is.
-- KEYS: [1] the set of the workers' ids
-- ARGV: [1] id, [2] record_prefix (a worker's record is this followed by its id), [3] how many ids to look at, drawn
--       at random, [4] until when this worker is there if nothing more is heard of it (unix s; for a sorted set)
-- Returns: the ids that were removed.
if redis.call('TYPE', KEYS[1]).ok == 'zset' then
  redis.call('ZREM', KEYS[1], '') -- a first write that a full Redis does not refuse, so it refuses none here
  redis.call('ZADD', KEYS[1], ARGV[4], ARGV[1])
  return {}
end
redis.call('SREM', KEYS[1], '')
redis.call('SADD', KEYS[1], ARGV[1])
local gone = {}
if ARGV[3] ~= '0' then
  for _, id in ipairs(redis.call('SRANDMEMBER', KEYS[1], ARGV[3])) do
    if id ~= ARGV[1] and redis.call('EXISTS', ARGV[2] .. id) == 0 then
      redis.call('SREM', KEYS[1], id)
      gone[#gone + 1] = id
    end
  end
end
return gone
