-- elsewhere: whether an id is a second one of a task that is in another place. Clients of this layout write no state and
-- may use the id of a finished task again, so an id always stands for a task of its own here.
-- Arguments: id, key, state, here, queue_prefix.
-- Returns: false.
local function elsewhere(id, key, state, here, queue_prefix)
  return false
end
