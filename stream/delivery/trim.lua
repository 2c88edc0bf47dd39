-- Forgets outbox entries that the broker acknowledged, by position, if the caller still owns the partition.
-- KEYS[1] fence, KEYS[2] outbox. ARGV: owner, first position to keep.
-- Returns 1, or 0 if the partition has another owner.
if redis.call('HGET', KEYS[1], 'owner') ~= ARGV[1] then
  return 0
end
redis.call('XTRIM', KEYS[2], 'MINID', '=', ARGV[2])
return 1
