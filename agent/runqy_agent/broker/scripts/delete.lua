-- delete: delete the hash of an id that leaves its place for good, unless the task is in another place.
-- Arguments: id, key (its hash), here (the state of the place that it leaves), queue_prefix.
local function delete(id, key, here, queue_prefix)
  local state = redis.pcall('HGET', key, 'state')
  if is_wrong_type(state) or not elsewhere(id, key, state, here, queue_prefix) then redis.call('DEL', key) end
end
