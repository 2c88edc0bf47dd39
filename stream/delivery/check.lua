-- Sees that a fence stands where its owner left it, and that Redis takes writes, by writing the owner again.
-- KEYS[1] fence. ARGV: owner, from.
-- Returns 1, or the fence as it stands if owner or `from` do not equal it.
local fence = redis.call('HMGET', KEYS[1], 'owner', 'next')
if fence[1] ~= ARGV[1] or fence[2] ~= ARGV[2] then
  return redis.call('HGETALL', KEYS[1])
end
redis.call('HSET', KEYS[1], 'owner', ARGV[1])
return 1
