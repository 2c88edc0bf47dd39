-- Writes down that a process is about to work on a batch, or does nothing.
-- KEYS[1] fence, KEYS[2] attempts. ARGV: owner, from, process, end, and what is suspect up to which offset, or ''.
-- Returns 1, or the fence as it stands if owner or `from` do not equal it.
local fence = redis.call('HMGET', KEYS[1], 'owner', 'next')
if fence[1] ~= ARGV[1] or fence[2] ~= ARGV[2] then
  return redis.call('HGETALL', KEYS[1])
end
redis.call('HSET', KEYS[2], ARGV[3], ARGV[2] .. ' ' .. ARGV[4])
if ARGV[5] ~= '' then
  redis.call('HSET', KEYS[2], 'suspect', ARGV[5])
end
return 1
