-- Applies one batch whole, or not at all.
-- KEYS[1] fence, KEYS[2] outbox, KEYS[3] due set, KEYS[4] counts.
-- ARGV: tag, owner, from, to, clock, watermark, last hash, emitted, profile ttl (ms), emitted before, then six lists, each led by its
-- number of rows: entries (id, target, key, value, headers, at), profiles (user, 1 for all
-- of it or 0 for what changed, number of values, name, value...),
-- windows kept (user, id, deadline, packed), windows closed (user, id), consents (user, number of values, name,
-- value...), counts (name, by).
-- Returns 1; the fence as it stands if owner, `from` or emitted before do not equal it; `gone` for a lost profile.
local fence = redis.call('HMGET', KEYS[1], 'owner', 'next', 'emitted')
if fence[1] ~= ARGV[2] or fence[2] ~= ARGV[3] then
  return redis.call('HGETALL', KEYS[1])
end
if fence[3] ~= ARGV[10] then
  -- A quiet partition's closings move `emitted` alone: going back to before them shows here.
  return redis.call('HGETALL', KEYS[1])
end
local tag, ttl, at = ARGV[1], ARGV[9], 11

local function rows()
  local n = tonumber(ARGV[at])
  at = at + 1
  return n
end

-- A profile that was swept meanwhile can't be written in part.
local start = at
at = at + 6 * rows()
for _ = 1, rows() do
  if ARGV[at + 1] == '0' and redis.call('EXISTS', 'profile:' .. tag .. ':' .. ARGV[at]) == 0 then
    return 'gone'
  end
  at = at + 3 + tonumber(ARGV[at + 2])
end
at = start

-- Entries first: a position that is not above the last one is the one thing here that Redis may refuse.
for _ = 1, rows() do
  redis.call('XADD', KEYS[2], ARGV[at], 'target', ARGV[at + 1], 'key', ARGV[at + 2], 'value', ARGV[at + 3],
    'headers', ARGV[at + 4], 'at', ARGV[at + 5])
  at = at + 6
end
for _ = 1, rows() do
  local key, n = 'profile:' .. tag .. ':' .. ARGV[at], tonumber(ARGV[at + 2])
  if ARGV[at + 1] == '1' then
    redis.call('DEL', key)
  end
  redis.call('HSET', key, unpack(ARGV, at + 3, at + 2 + n))
  redis.call('PEXPIRE', key, ttl)
  at = at + 3 + n
end
for _ = 1, rows() do
  local user, id = ARGV[at], ARGV[at + 1]
  redis.call('HSET', 'pending:' .. tag .. ':' .. user, id, ARGV[at + 3])
  redis.call('ZADD', KEYS[3], ARGV[at + 2], id .. ' ' .. user)
  at = at + 4
end
for _ = 1, rows() do
  local user, id = ARGV[at], ARGV[at + 1]
  redis.call('HDEL', 'pending:' .. tag .. ':' .. user, id)
  redis.call('ZREM', KEYS[3], id .. ' ' .. user)
  at = at + 2
end
for _ = 1, rows() do
  local n = tonumber(ARGV[at + 1])
  redis.call('HSET', 'consent:' .. tag .. ':' .. ARGV[at], unpack(ARGV, at + 2, at + 1 + n))
  at = at + 2 + n
end
for _ = 1, rows() do
  redis.call('HINCRBY', KEYS[4], ARGV[at], ARGV[at + 1])
  at = at + 2
end
redis.call('HSET', KEYS[1], 'next', ARGV[4], 'clock', ARGV[5], 'watermark', ARGV[6], 'last_hash', ARGV[7],
  'emitted', ARGV[8])
return 1
