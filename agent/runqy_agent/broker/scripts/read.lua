-- read: statements that read what a worker must know of a task, and no function, since many tasks pass here.
-- Arguments: the local key, the task's hash.
-- Returns: the local fields: msg, pending_since, ttl_completed, ttl_archived, pending_timeout, active_timeout; false
-- where the hash lacks the field. A table with err if the key is no hash. The local state, and the local is_task: a
-- hash with neither msg nor state was left by somebody who wrote to it after the task was gone.
local fields = redis.pcall('HMGET', key, 'msg', 'pending_since', 'ttl_completed', 'ttl_archived', 'pending_timeout',
  'active_timeout', 'state')
local state = table.remove(fields)
local is_task = not is_wrong_type(fields) and (fields[1] or state)
