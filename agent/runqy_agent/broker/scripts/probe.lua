-- probe: try commands on a key of no meaning, to learn which of them are not permitted. Leaves nothing behind.
-- KEYS: [1] the key
-- ARGV: commands, each with its arguments after the key: "ZADD 1 a"
-- Returns: for each command that failed two values: its name, the error.
local failed = {}
for _, try in ipairs(ARGV) do
  local words = {}
  for word in string.gmatch(try, '%S+') do words[#words + 1] = word end
  local reply = redis.pcall(words[1], KEYS[1], unpack(words, 2))
  if type(reply) == 'table' and reply.err then
    failed[#failed + 1] = words[1]
    failed[#failed + 1] = reply.err
  end
  redis.pcall('DEL', KEYS[1])
end
return failed
