-- KEYS: the partition's mark, what the backup has yet to copy, then the keys of some values.
-- ARGV: the backup, seconds until it counts as dead.
-- Nothing where another backup, or a seal, has come between. Else how many values are left, the mark, the server's time
-- in ms, the values, and for how many ms each is kept. With none left, everything copied stands for that very mark.
if redis.call('SISMEMBER', KEYS[2], ARGV[1]) == 0 then return false end
redis.call('EXPIRE', KEYS[2], ARGV[2])
local values, kept = {}, {}
for i = 3, #KEYS do
    redis.call('SREM', KEYS[2], KEYS[i])
    values[i - 2] = redis.call('GET', KEYS[i])
    kept[i - 2] = redis.call('PTTL', KEYS[i])
end
local now = redis.call('TIME')
return {redis.call('SCARD', KEYS[2]) - 1, redis.call('HGETALL', KEYS[1]), now[1] * 1000 + math.floor(now[2] / 1000), values, kept}
