-- Deletes keys that a lost fence left behind, or nothing if the caller is not, or not any more, the one who clears.
-- KEYS[1] fence, then the keys. ARGV: owner.
-- Returns how many there were, or -1.
local fence = redis.call('HMGET', KEYS[1], 'owner', 'clearing')
if fence[1] ~= ARGV[1] or not fence[2] then
  return -1
end
local count = 0
for at = 2, #KEYS do
  count = count + redis.call('UNLINK', KEYS[at])
end
return count
