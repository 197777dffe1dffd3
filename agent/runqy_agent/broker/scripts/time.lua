-- time: what Redis' clock says. With a key, so that on a cluster all workers ask the same node.
-- KEYS: [1] asynq:workers (it is not touched)
-- ARGV: none
-- Returns: unix seconds, microseconds, as text.
return redis.call('TIME')
