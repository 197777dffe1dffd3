-- forget_lookup: delete what the server keeps to find a task by its id, if that names this queue.
-- Arguments: id, lookup_prefix (empty where these keys are not to be touched), queue.
local function forget_lookup(id, lookup_prefix, queue)
  if lookup_prefix == '' then return end
  local named = redis.pcall('HGET', lookup_prefix .. id, 'queue')
  if not is_wrong_type(named) and named == queue then redis.call('DEL', lookup_prefix .. id) end
end
