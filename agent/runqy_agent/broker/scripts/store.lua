-- store: write what a step has changed.
-- Arguments: key (the task's hash), msg (as it is now), then more fields, each with its value.
local function store(key, msg, ...)
  redis.call('HSET', key, 'msg', msg, ...)
end
