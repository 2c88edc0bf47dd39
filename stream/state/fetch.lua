-- Everything kept about the people of a batch, and the windows that may fall due in it, in one call.
-- KEYS[1] due set of the partition.
-- ARGV: tag, watermark (ms), most windows beside those of the users, user...
-- Returns {earliest deadline left or false, {due member...}, {profile, pending, consent of each user}}.
local tag, watermark, most = ARGV[1], ARGV[2], tonumber(ARGV[3])
local people, n = {}, 0
for i = 4, #ARGV do
  local rest = tag .. ':' .. ARGV[i]
  local pending = redis.call('HGETALL', 'pending:' .. rest)
  people[n + 1] = redis.call('HGETALL', 'profile:' .. rest)
  people[n + 2] = pending
  people[n + 3] = redis.call('HGETALL', 'consent:' .. rest)
  n = n + 3
  most = most + #pending / 2
end
local due = redis.call('ZRANGEBYSCORE', KEYS[1], '-inf', '(' .. watermark, 'LIMIT', 0, most)
local later = redis.call('ZRANGEBYSCORE', KEYS[1], watermark, '+inf', 'WITHSCORES', 'LIMIT', 0, 1)
return { later[2] or false, due, people }
