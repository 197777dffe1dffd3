-- read: statements that read what a worker must know of a task. Without msg the other fields are the task.
-- Arguments: the local key, the task's hash.
-- Returns: the local fields: msg, pending_since, ttl_completed, ttl_archived, pending_timeout, active_timeout, type,
-- payload, retry, retried, max_retry, timeout, deadline; false where the hash lacks the field. A table with err if the
-- key is no hash. The locals state and is_task.
local fields = redis.pcall('HMGET', key, 'msg', 'pending_since', 'ttl_completed', 'ttl_archived', 'pending_timeout',
  'active_timeout', 'type', 'payload', 'retry', 'retried', 'max_retry', 'timeout', 'deadline', 'state')
local state = table.remove(fields)
local is_task = not is_wrong_type(fields) and (fields[1] or redis.call('EXISTS', key) == 1)
