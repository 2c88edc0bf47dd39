-- Applies one batch whole, or not at all.
-- KEYS[1] fence. ARGV: owner, from, emitted before, to, clock, watermark, last hash, emitted, and packed by msgpack: a
-- list of lists of keys that must be there, and any number of lists of commands.
-- Returns 1; the fence as it stands if owner, `from` or emitted before do not equal it; `gone` for a lost key.
local fence = redis.call('HMGET', KEYS[1], 'owner', 'next', 'emitted')
-- A quiet partition's closings move `emitted` alone: going back to before them shows in it only.
if fence[1] ~= ARGV[1] or fence[2] ~= ARGV[2] or fence[3] ~= ARGV[3] then
  return redis.call('HGETALL', KEYS[1])
end
-- A profile that was swept meanwhile can't be written in part.
for _, keys in ipairs(cmsgpack.unpack(ARGV[9])) do
  if redis.call('EXISTS', unpack(keys)) ~= #keys then
    return 'gone'
  end
end
for piece = 10, #ARGV do
  for _, command in ipairs(cmsgpack.unpack(ARGV[piece])) do
    redis.call(unpack(command))
  end
end
redis.call('HSET', KEYS[1], 'next', ARGV[4], 'clock', ARGV[5], 'watermark', ARGV[6], 'last_hash', ARGV[7],
  'emitted', ARGV[8])
return 1
