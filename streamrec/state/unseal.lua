-- KEYS: the partition's mark. ARGV: the seal, watermark or '', snapshot or ''.
-- Returns 0 under another's seal. Without any, this is a repeat of what was done already.
local seal = redis.call('HGET', KEYS[1], 'seal')
if not seal then return 1 end
if seal ~= ARGV[1] then return 0 end
if (redis.call('HGET', KEYS[1], 'watermark') or '') ~= ARGV[2] then redis.call('HDEL', KEYS[1], 'ends') end
redis.call('HDEL', KEYS[1], 'seal', 'watermark', 'snapshot')
if ARGV[2] ~= '' then redis.call('HSET', KEYS[1], 'watermark', ARGV[2], 'snapshot', ARGV[3]) end
return 1
