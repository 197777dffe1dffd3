-- refused: what Redis said when it refused a command: older ones raise a text, others a table.
-- Arguments: raised (by pcall).
-- Returns: a text.
local function refused(raised)
  return type(raised) == 'table' and raised.err or tostring(raised)
end

-- is_wrong_type: whether a key is of another type than a command needs. Any other refusal is raised.
-- Arguments: reply (of redis.pcall).
-- Returns: true or false.
local function is_wrong_type(reply)
  if type(reply) ~= 'table' or not reply.err then return false end
  if not string.find(reply.err, 'WRONGTYPE', 1, true) then error(reply.err, 0) end
  return true
end
