-- Everything kept about the people of a batch, and the windows that may fall due in it, in one call.
-- KEYS[1] due set of the partition.
-- ARGV: tag, watermark (ms), most windows, number of users, user...
-- Returns {earliest deadline left or false, {due member...}, {user, profile, pending, consent, ...}}.
local tag, watermark, most, users = ARGV[1], ARGV[2], tonumber(ARGV[3]), tonumber(ARGV[4])
local known, people = {}, {}

local function add(user)
  if known[user] then return 0 end
  known[user] = true
  local pending = redis.call('HGETALL', 'pending:' .. tag .. ':' .. user)
  local n = #people
  people[n + 1] = user
  people[n + 2] = redis.call('HGETALL', 'profile:' .. tag .. ':' .. user)
  people[n + 3] = pending
  people[n + 4] = redis.call('HGETALL', 'consent:' .. tag .. ':' .. user)
  return #pending / 2
end

for i = 5, 4 + users do
  -- A window that this batch cancels must not shorten what the others can close.
  most = most + add(ARGV[i])
end
local due = redis.call('ZRANGEBYSCORE', KEYS[1], '-inf', '(' .. watermark, 'LIMIT', 0, most)
for _, member in ipairs(due) do
  add(string.sub(member, 18))
end
local later = redis.call('ZRANGEBYSCORE', KEYS[1], watermark, '+inf', 'WITHSCORES', 'LIMIT', 0, 1)
return { later[2] or false, due, people }
