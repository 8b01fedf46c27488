-- KEYS: the partition's mark. ARGV: the epoch of whoever notes, where topics end.
-- A former owner's note is passed over.
if redis.call('HGET', KEYS[1], 'epoch') == ARGV[1] then redis.call('HSET', KEYS[1], 'ends', ARGV[2]) end
