-- store: write what a step has changed. All other fields of the hash stay.
-- Arguments: key (the task's hash), changed (fields, each with its value, each of them after its length as four bytes,
-- the highest first), then more fields, each with its value.
local function store(key, changed, ...)
  local values, at = { ... }, 1
  while at <= #changed do values[#values + 1], at = struct.unpack('>I4c0', changed, at) end
  redis.call('HSET', key, unpack(values))
end
