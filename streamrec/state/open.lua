-- KEYS: the partition's mark. ARGV: the seal of whoever asks. Under another's seal: nothing.
-- A new owner starts a new epoch, and counts its checkpoints (turns) from nought.
local seal = redis.call('HGET', KEYS[1], 'seal')
if seal and seal ~= ARGV[1] then return false end
redis.call('HINCRBY', KEYS[1], 'epoch', 1)
redis.call('HSET', KEYS[1], 'turn', 0)
return redis.call('HMGET', KEYS[1], 'watermark', 'snapshot', 'epoch', 'seal', 'refused', 'ends')
