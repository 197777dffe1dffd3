-- forget: take an id out of active, whoever holds it.
-- Arguments: id.
local function forget(id)
  redis.call('ZREM', active, id)
end
