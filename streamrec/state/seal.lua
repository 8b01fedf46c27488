-- KEYS: the partition's mark, its sentinels. ARGV: the seal.
-- The new epoch fences off whoever owned the partition; what it had is gone.
redis.call('HINCRBY', KEYS[1], 'epoch', 1)
redis.call('HSET', KEYS[1], 'turn', 0, 'seal', ARGV[1])
redis.call('HDEL', KEYS[1], 'watermark', 'snapshot')
redis.call('DEL', KEYS[2])
