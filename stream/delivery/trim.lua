-- Forgets outbox entries that the broker acknowledged, by position, if the caller still owns the partition.
-- KEYS[1] fence, KEYS[2] outbox. ARGV: owner, first position to keep, and how far transactions reached, if any do.
-- Returns 1, or 0 if the partition has another owner.
if redis.call('HGET', KEYS[1], 'owner') ~= ARGV[1] then
  return 0
end
redis.call('XTRIM', KEYS[2], 'MINID', '=', ARGV[2])
if ARGV[3] then
  redis.call('HSET', KEYS[1], 'reached', ARGV[3])
end
return 1
