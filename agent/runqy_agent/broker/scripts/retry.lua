-- retry: a task has failed and will be tried again at due. Its uniqueness lock stays.
-- KEYS: [10] retry (see exchange.lua).
-- Arguments: id, key (its hash), msg (with its error and count already in it), due (unix s).
local function retry(id, key, msg, due)
  store(key, msg, 'state', 'retry')
  redis.call('ZADD', KEYS[10], due, id)
end
