-- refused: what Redis said when it refused a command: older ones raise a text, others a table.
-- Arguments: raised (by pcall).
-- Returns: a text. What a server says that is no longer the master is no refusal of one command: it ends the script.
local function refused(raised)
  local text = type(raised) == 'table' and raised.err or tostring(raised)
  if string.find(text, 'READONLY ', 1, true) or string.find(text, 'MASTERDOWN ', 1, true) then
    error('-READONLY ' .. text, 0)
  end
  return text
end

-- is_wrong_type: whether a key is of another type than a command needs. Any other refusal is raised.
-- Arguments: reply (of redis.pcall).
-- Returns: true or false.
local function is_wrong_type(reply)
  if type(reply) ~= 'table' or not reply.err then return false end
  if not string.find(reply.err, 'WRONGTYPE', 1, true) then error(reply.err, 0) end
  return true
end
