-- Moves a fence on, with what belongs to that place, or does nothing.
-- KEYS[1] fence. ARGV: owner, from, to, clock, watermark, last hash, emitted, then commands, each led by its length.
-- Returns 1, or the fence as it stands if owner or `from` do not equal it.
local fence = redis.call('HMGET', KEYS[1], 'owner', 'next')
if fence[1] ~= ARGV[1] or fence[2] ~= ARGV[2] then
  return redis.call('HGETALL', KEYS[1])
end
local at = 8
while at <= #ARGV do
  local n = tonumber(ARGV[at])
  redis.call(unpack(ARGV, at + 1, at + n))
  at = at + 1 + n
end
redis.call('HSET', KEYS[1], 'next', ARGV[3], 'clock', ARGV[4], 'watermark', ARGV[5], 'last_hash', ARGV[6],
  'emitted', ARGV[7])
return 1
