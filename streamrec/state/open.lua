-- KEYS: the partition's mark. A new owner starts a new epoch, and counts its checkpoints (turns) from nought.
local epoch = redis.call('HINCRBY', KEYS[1], 'epoch', 1)
redis.call('HSET', KEYS[1], 'turn', 0)
local mark = redis.call('HMGET', KEYS[1], 'watermark', 'snapshot')
return {mark[1], mark[2], epoch}
