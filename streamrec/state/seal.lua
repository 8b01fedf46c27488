-- KEYS: the partition's mark, its sentinels, what a backup has yet to copy. ARGV: the seal, whether it keeps what it has (1 or 0).
-- The new epoch fences off whoever owned the partition; what it had is gone, unless it is kept. A backup gives up.
redis.call('HINCRBY', KEYS[1], 'epoch', 1)
redis.call('HSET', KEYS[1], 'turn', 0, 'seal', ARGV[1])
redis.call('DEL', KEYS[3])
if ARGV[2] == '0' then
    redis.call('HDEL', KEYS[1], 'watermark', 'snapshot', 'ends')
    redis.call('DEL', KEYS[2])
end
