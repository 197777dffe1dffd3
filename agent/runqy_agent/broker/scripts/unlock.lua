-- unlock: delete a task's uniqueness lock, if the lock still names this task.
-- Arguments: id, unique_key (empty: the task has none).
local function unlock(id, unique_key)
  if unique_key == '' then return end
  local holder = redis.pcall('GET', unique_key)
  if not is_wrong_type(holder) and holder == id then redis.call('DEL', unique_key) end
end
