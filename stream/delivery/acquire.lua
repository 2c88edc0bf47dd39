-- Takes a partition over: a fresh owner, the epoch one higher; whoever held it before can write nothing from now on.
-- KEYS[1] fence, KEYS[2] the log's generation. ARGV: owner, offset to begin at where there is no fence,
-- 1 if what such a partition holds is to be cleared first, else 0, last hash to begin with, the form of state that the
-- owner writes, the generation that is known from elsewhere, the first offset that state is made of.
-- Returns the fence.
if redis.call('EXISTS', KEYS[1]) == 0 then
  local generation = math.max(tonumber(redis.call('GET', KEYS[2]) or '0'), tonumber(ARGV[6]))
  redis.call('HSET', KEYS[1], 'next', ARGV[2], 'clock', '0', 'watermark', '0', 'last_hash', ARGV[4], 'emitted', '-1-0',
    'generation', generation, 'began', ARGV[7])
  if generation > 0 then
    redis.call('SET', KEYS[2], generation)
  end
  if ARGV[3] == '1' then
    redis.call('HSET', KEYS[1], 'clearing', '1')
  end
end
redis.call('HSET', KEYS[1], 'owner', ARGV[1])
redis.call('HINCRBY', KEYS[1], 'epoch', 1)
if tonumber(redis.call('HGET', KEYS[1], 'form') or '1') < tonumber(ARGV[5]) then
  redis.call('HSET', KEYS[1], 'form', ARGV[5])
end
return redis.call('HGETALL', KEYS[1])
