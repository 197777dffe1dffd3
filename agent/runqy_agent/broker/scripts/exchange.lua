-- exchange: finish a batch of tasks of one queue and take the next ones, in one atomic step and one round trip.
-- Every finishing step stands in a file of its own and changes nothing for a task this worker no longer holds.
-- KEYS: [1] pending, [2] active, [3] lease, [4] paused, [5] processed, [6] processed of the day, [7] failed,
--       [8] failed of the day, [9] completed, [10] retry, [11] archived
-- ARGV: [1] task_prefix, [2] lookup_prefix, [3] result_prefix (2 and 3 empty where they are not to be touched),
--       [4] now (unix s), [5] stats_expire_at (unix s), [6] archive cutoff (unix s), [7] archive size,
--       [8] lease_until for what is taken (unix s), [9] how many to take,
--       then eight values for each finished task: step, id, held_until, msg, a, b, c, d:
--         'done':     a unique_key
--         'complete': a unique_key, b expires_at (unix s), c result, d ttl (s)
--         'retry':    a due (unix s), b '1' if it counts as a failure
--         'archive':  d ttl (s)
--         'requeue':  a pending_since (unix ns)
-- In the flat layout active is a sorted set and lease is the same key; msg holds fields (see flat/store.lua).
-- Returns: { for each finished task 1, or 0 if it was no longer held }, taken, dropped, paused (see take.lua).
local active, lease = KEYS[2], KEYS[3]
--@include ours.lua
--@include held.lua
--@include store.lua
--@include counters.lua
--@include unlock.lua
--@include done.lua
--@include complete.lua
--@include retry.lua
--@include archive.lua
--@include requeue.lua
--@include take.lua
local task_prefix, lookup_prefix, result_prefix = ARGV[1], ARGV[2], ARGV[3]
local now = ARGV[4]
local at = 10
local statuses, processed, failed, archived = {}, 0, 0, 0
while at <= #ARGV do
  local step, id, held_until, msg = ARGV[at], ARGV[at + 1], ARGV[at + 2], ARGV[at + 3]
  local a, b, c, d = ARGV[at + 4], ARGV[at + 5], ARGV[at + 6], ARGV[at + 7]
  local status
  if step == 'done' then
    status = done(id, held_until, a, task_prefix, lookup_prefix)
    processed = processed + status
  elseif step == 'complete' then
    status = complete(id, held_until, msg, a, b, d, c, task_prefix, lookup_prefix, result_prefix)
    processed = processed + status
  elseif step == 'retry' then
    status = retry(id, held_until, msg, a, task_prefix)
    if b == '1' then
      processed = processed + status
      failed = failed + status
    end
  elseif step == 'archive' then
    status = archive(id, held_until, msg, now, d, task_prefix, lookup_prefix)
    processed = processed + status
    failed = failed + status
    archived = archived + status
  elseif step == 'requeue' then
    status = requeue(id, held_until, a, task_prefix)
  else
    return redis.error_reply('ERR unknown step ' .. step)
  end
  statuses[#statuses + 1] = status
  at = at + 8
end
count(KEYS[5], KEYS[6], processed, ARGV[5])
count(KEYS[7], KEYS[8], failed, ARGV[5])
if archived > 0 then trim_archive(ARGV[6], tonumber(ARGV[7]), task_prefix) end

local taken, dropped, paused = take(tonumber(ARGV[9]), ARGV[8], task_prefix)
return { statuses, taken, dropped, paused }
