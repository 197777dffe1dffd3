-- elsewhere: whether a task is, beyond doubt, in another place than the one where its id was found, so that this id is
-- a second one. A state alone proves nothing: others may have died between writing it and moving the id.
-- Arguments: id, key (its hash), state (as the hash tells), here (the state that belongs to the place where the id was
-- found), queue_prefix.
-- Returns: true or false.
local function is_listed(list, id)
  local at, ids = 0, nil
  repeat
    ids = redis.pcall('LRANGE', list, at, at + 999)
    if is_wrong_type(ids) then return false end
    for _, each in ipairs(ids) do
      if each == id then return true end
    end
    at = at + 1000
  until #ids == 0
  return false
end

local function elsewhere(id, key, state, here, queue_prefix)
  if not state or state == here then return false end
  local set
  if state == 'scheduled' or state == 'retry' or state == 'archived' or state == 'completed' then
    set = queue_prefix .. state
  elseif state == 'active' then
    if is_listed(queue_prefix .. 'active', id) then return true end
    set = queue_prefix .. 'lease'
  elseif state == 'aggregating' then
    local group = redis.call('HGET', key, 'group')
    if not group then return false end
    set = queue_prefix .. 'g:' .. group
  else
    return state == 'pending' and is_listed(queue_prefix .. 'pending', id)
  end
  local score = redis.pcall('ZSCORE', set, id)
  return not is_wrong_type(score) and score ~= false
end
