//! The scripts of durable topics; see [`Script`](super::scripts::Script) for their keys and arguments.

pub(super) const TAKE_OVER: &str = "local cursor, entries, lost = '0-0', {}, 0
if #ARGV > 5 then
  entries = redis.call('XCLAIM', KEYS[1], ARGV[1], ARGV[2], 0, unpack(ARGV, 6))
  local there = {}
  for _, entry in ipairs(entries) do
    if entry and entry[2] then there[entry[1]] = true end
  end
  for i = 6, #ARGV do
    if not there[ARGV[i]] and not redis.call('XRANGE', KEYS[1], ARGV[i], ARGV[i])[1] then
      redis.call('XACK', KEYS[1], ARGV[1], ARGV[i])
      lost = lost + 1
    end
  end
else
  local found = redis.call('XAUTOCLAIM', KEYS[1], ARGV[1], ARGV[2], ARGV[3], ARGV[4], 'COUNT', ARGV[5])
  cursor, entries = found[1], found[2]
  if found[3] then lost = #found[3] end
end
local out = {cursor, lost}
for i = 1, #entries do
  local entry = entries[i]
  if entry and entry[2] then
    local pending = redis.call('XPENDING', KEYS[1], ARGV[1], entry[1], entry[1], 1)
    if pending[1] then
      out[#out + 1] = pending[1][4]
      out[#out + 1] = entry
    end
  end
end
return out";

/// The broker counts what was ever added and what a group has read, the latter from the beginning of the stream. A group
/// that begins at the end of a stream has no count before it reaches the end: the broker is told. It counts on from
/// where a group was even if that is gone, and is set right when the group was told.
pub(super) const OVERTAKEN: &str = "local function named(list)
  local out = {}
  for i = 1, #list, 2 do out[list[i]] = list[i + 1] end
  return out
end
local group
local groups = redis.pcall('XINFO', 'GROUPS', KEYS[1])
if groups.err then
  if string.find(groups.err, 'no such key', 1, true) then return {0, 0} end
  return groups
end
for _, info in ipairs(groups) do
  local found = named(info)
  if found.name == ARGV[1] then group = found end
end
if not group then return {0, 0} end
local stream = named(redis.call('XINFO', 'STREAM', KEYS[1]))
local last, added, read = group['last-delivered-id'], stream['entries-added'], group['entries-read']
local function set(count)
  redis.call('XGROUP', 'SETID', KEYS[1], ARGV[1], last, 'ENTRIESREAD', count)
end
local gone = added and added - stream.length
if added and not read and last == stream['last-generated-id'] then
  read = added
  set(read)
end
if added and read then
  if read >= gone then return {0, read - gone} end
  set(gone)
  return {gone - read, 0}
end
local first = stream['first-entry']
if not first or last == '0-0' or gone == 0 then return {0, 0} end
local ms, number = string.match(first[1], '(%d+)-(%d+)')
local last_ms, last_number = string.match(last, '(%d+)-(%d+)')
ms, number, last_ms, last_number = tonumber(ms), tonumber(number), tonumber(last_ms), tonumber(last_number)
if ms < last_ms or (ms == last_ms and number <= last_number) then return {0, 0} end
if gone then set(gone) end
return {-1, 0}";

pub(super) const BURY: &str =
    "if not redis.call('XPENDING', KEYS[1], ARGV[1], ARGV[2], ARGV[2], 1)[1] then return 0 end
local entry = redis.call('XRANGE', KEYS[1], ARGV[2], ARGV[2])[1]
if entry then
  local kept = {a = '', m = ''}
  for i = 1, #entry[2], 2 do kept[entry[2][i]] = entry[2][i + 1] end
  redis.call('XADD', KEYS[2], 'MAXLEN', '~', ARGV[3], '*',
    'a', kept.a, 'm', kept.m, 'r', ARGV[4], 'n', ARGV[5], 's', KEYS[1], 'g', ARGV[1], 'i', ARGV[2])
end
redis.call('XACK', KEYS[1], ARGV[1], ARGV[2])
if ARGV[6] == '1' then redis.call('XDEL', KEYS[1], ARGV[2]) end
return 1";

pub(super) const RESEND: &str = "local letter = redis.call('XRANGE', KEYS[1], ARGV[1], ARGV[1])[1]
if not letter then return 0 end
local kept = {}
for i = 1, #letter[2], 2 do kept[letter[2][i]] = letter[2][i + 1] end
if string.find(kept.s, ARGV[3], 1, true) == 1 then
  redis.call('XADD', kept.s, '*', 'a', kept.a, 'm', kept.m)
else
  redis.call('XADD', kept.s, 'MAXLEN', '~', ARGV[2], '*', 'a', kept.a, 'm', kept.m, 'g', kept.g)
end
redis.call('XDEL', KEYS[1], ARGV[1])
return 1";

pub(super) const KEEP: &str = "if redis.call('XLEN', KEYS[1]) >= tonumber(ARGV[1]) then return 0 end
redis.call('XADD', KEYS[1], '*', 'a', ARGV[2], 'm', ARGV[3])
return 1";

pub(super) const SETTLE: &str = "redis.call('XACK', KEYS[1], ARGV[1], ARGV[2])
return redis.call('XDEL', KEYS[1], ARGV[2])";

pub(super) const CLAIM_KEY: &str = "local had = redis.call('HMGET', KEYS[1], 'b', 'o', 'm')
if had[1] and had[1] ~= ARGV[1] then return 3 end
if had[3] then return had[3] end
if had[2] and had[2] ~= ARGV[2] then return 2 end
redis.call('HSET', KEYS[1], 'b', ARGV[1], 'o', ARGV[2])
redis.call('PEXPIRE', KEYS[1], ARGV[3])
return 1";

pub(super) const CONCLUDE: &str = "local owner = redis.call('HGET', KEYS[1], 'o')
if owner and owner ~= ARGV[2] then return 0 end
if ARGV[4] then
  redis.call('HSET', KEYS[1], 'b', ARGV[1], 'o', ARGV[2], 'm', ARGV[4])
  redis.call('PEXPIRE', KEYS[1], ARGV[3])
else
  redis.call('DEL', KEYS[1])
end
return 1";

pub(super) const TIDY: &str =
    "for _, consumer in ipairs(redis.call('XINFO', 'CONSUMERS', KEYS[1], ARGV[1])) do
  local has = {}
  for i = 1, #consumer, 2 do has[consumer[i]] = consumer[i + 1] end
  if has.pending == 0 and (has.name == ARGV[2] or has.idle > tonumber(ARGV[3])) then
    redis.call('XGROUP', 'DELCONSUMER', KEYS[1], ARGV[1], has.name)
  end
end
return 1";

pub(super) const REMOVE: &str = "local consumers = redis.pcall('XINFO', 'CONSUMERS', KEYS[1], ARGV[1])
if consumers.err then
  local absent = string.find(consumers.err, 'NOGROUP', 1, true) or string.find(consumers.err, 'no such key', 1, true)
  if absent then return 0 end
  return consumers
end
for _, consumer in ipairs(consumers) do
  for i = 1, #consumer, 2 do
    if consumer[i] == 'idle' and consumer[i + 1] < tonumber(ARGV[2]) then return 2 end
  end
end
return redis.call('XGROUP', 'DESTROY', KEYS[1], ARGV[1])";
