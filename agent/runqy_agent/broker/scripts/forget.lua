-- forget: take an id out of active and lease, whoever holds it.
-- Arguments: id.
local function forget(id)
  redis.call('LREM', active, 0, id)
  redis.call('ZREM', lease, id)
end
