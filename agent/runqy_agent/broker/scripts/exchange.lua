-- exchange: finish a batch of tasks of one queue and take the next ones, in one atomic step and one round trip.
-- Every finishing step stands in a file of its own and changes nothing for a task this worker no longer holds.
-- What Redis refuses in the middle of a script is not rolled back by it. So each task is a step of its own: it leaves
-- active first, which can be undone, and its lease last; its hash is changed when nothing more can be refused. Where Redis
-- refuses a part of it, it is where it was, active and leased, and the step can be made again. A refusal for one task is its status and stops no other; taking comes
-- last, whole or not at all.
-- KEYS: [1] pending, [2] active, [3] lease, [4] paused, [5] processed, [6] processed of the day, [7] failed,
--       [8] failed of the day, [9] completed, [10] retry, [11] archived
-- ARGV: [1] task_prefix, [2] lookup_prefix, [3] result_prefix (2 and 3 empty where they are not to be touched),
--       [4] now (unix s), [5] stats_expire_at (unix s), [6] archive cutoff (unix s), [7] archive size,
--       [8] lease_until for what is taken (unix s), [9] how many to take, [10] queue_prefix, [11] queue,
--       [12] and [13] how many processed and failed are still to be counted,
--       then eight values for each finished task: step, id, held_until, msg, a, b, c, d:
--         'done':     a unique_key, b late (s)
--         'complete': a unique_key, b expires_at (unix s), c result, d ttl (s)
--         'retry':    a due (unix s), b '1' if it counts as a failure
--         'archive':  d ttl (s)
--         'requeue':  a pending_since (unix ns)
-- In the flat layout active is a sorted set and lease is the same key; msg holds fields (see flat/store.lua).
-- Returns: { for each finished task 1, or 0 if it was no longer held and nothing was changed, or why it was refused
--       and is still held }, taken, dropped, repeated, paused (see take.lua), why nothing could be taken (empty if it
--       could), how many processed and failed could not be counted.
local active, lease = KEYS[2], KEYS[3]
--@include refused.lua
--@include ours.lua
--@include held.lua
--@include store.lua
--@include counters.lua
--@include unlock.lua
--@include elsewhere.lua
--@include delete.lua
--@include done.lua
--@include complete.lua
--@include retry.lua
--@include archive.lua
--@include requeue.lua
--@include take.lua
local task_prefix, lookup_prefix, result_prefix, queue_prefix = ARGV[1], ARGV[2], ARGV[3], ARGV[10]
local now = ARGV[4]
local targets = { complete = KEYS[9], retry = KEYS[10], archive = KEYS[11] }
local tried = {}

-- What changes nothing is tried once for each batch, where it could not be undone later that it is refused: the end of
-- a lease (a full Redis refuses no write after this one), and entries in the set that a step leads to.
local function try(step)
  if not tried.lease then
    redis.call('ZREM', lease, '')
    tried.lease = true
  end
  if targets[step] and not tried[step] then
    redis.call('ZADD', targets[step], 'XX', 0, '')
    tried[step] = true
  end
end

local function write(at)
  local step, id, msg = ARGV[at], ARGV[at + 1], ARGV[at + 3]
  local a, b, c, d = ARGV[at + 4], ARGV[at + 5], ARGV[at + 6], ARGV[at + 7]
  local key = task_prefix .. id
  if step == 'done' then
    done(id, key, a, b, ARGV[11], lookup_prefix)
  elseif step == 'complete' then
    complete(id, key, msg, a, b, d, c, lookup_prefix, result_prefix)
  elseif step == 'retry' then
    retry(id, key, msg, a)
  elseif step == 'archive' then
    archive(id, key, msg, now, d, lookup_prefix)
  elseif step == 'requeue' then
    requeue(id, key, a)
  else
    error('ERR unknown step ' .. step, 0)
  end
end

local function finish(at)
  local id = ARGV[at + 1]
  local ends = lease_of(id, ARGV[at + 2])
  if not ends then return 0 end
  try(ARGV[at])
  if not leave(id) then return 0 end
  local written, why = pcall(write, at)
  if not written then
    rejoin(id, ends)
    error(why, 0)
  end
  end_lease(id)
  return 1
end

local statuses, processed, failed, archived = {}, tonumber(ARGV[12]), tonumber(ARGV[13]), false
for at = 14, #ARGV, 8 do
  local step = ARGV[at]
  local done, status = pcall(finish, at)
  statuses[#statuses + 1] = done and status or refused(status)
  if status == 1 then
    local failure = step == 'archive' or (step == 'retry' and ARGV[at + 5] == '1')
    if failure then failed = failed + 1 end
    if failure or step == 'done' or step == 'complete' then processed = processed + 1 end
    archived = archived or step == 'archive'
  end
end
processed = count(KEYS[5], KEYS[6], processed, ARGV[5])
failed = count(KEYS[7], KEYS[8], failed, ARGV[5])
if archived then pcall(trim_archive, ARGV[6], tonumber(ARGV[7]), task_prefix, queue_prefix) end

local could, taken, dropped, repeated, paused = pcall(take, tonumber(ARGV[9]), ARGV[8], task_prefix, queue_prefix)
if not could then return { statuses, {}, {}, {}, 0, refused(taken), processed, failed } end
return { statuses, taken, dropped, repeated, paused, '', processed, failed }
