-- done: a task without retention has succeeded and leaves Redis. Where its client may still write fields of its own to
-- the hash, these are to find one that expires, or they would stay for ever.
-- Arguments: id, key (its hash), unique_key, late (s for which a client may still write to the hash; empty: it does
-- not), queue, lookup_prefix (empty: the server keeps no look-up key here).
local function done(id, key, unique_key, late, queue, lookup_prefix)
  unlock(id, unique_key)
  if lookup_prefix ~= '' then redis.call('DEL', lookup_prefix .. id) end
  redis.call('DEL', key)
  if late == '' then return end
  if redis.pcall('HSET', key, 'deleted', '1') == 1 and redis.pcall('EXPIRE', key, late) ~= 1 then
    redis.call('DEL', key)
  end
  if lookup_prefix ~= '' then
    local lookup = lookup_prefix .. id
    if redis.pcall('HSET', lookup, 'queue', queue) == 1 and redis.pcall('EXPIRE', lookup, late) ~= 1 then
      redis.call('DEL', lookup)
    end
  end
end
