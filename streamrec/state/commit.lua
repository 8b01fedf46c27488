-- KEYS: the partition's mark, its sentinels, what a backup has yet to copy, then the keys of the values.
-- ARGV: epoch, turn, last confirmed turn, watermark, snapshot or '', seconds to keep users and items, seconds to keep
--       slates, how many of the keys are slates (they come last), how many sentinels are kept, then the values in the
--       order of their keys.
-- A former owner's checkpoint is refused, and counted. Everything is decided before the first write. Without a shebang
-- line, Redis refuses for want of memory or disk at the first write or never (6.2 and 7 alike), so nothing can stop the
-- script half way.
local stored = redis.call('HMGET', KEYS[1], 'epoch', 'turn', 'watermark')
local epoch, turn, watermark = tonumber(stored[1] or 0), tonumber(stored[2] or 0), tonumber(stored[3] or -1)
if epoch > tonumber(ARGV[1]) then
    redis.call('HINCRBY', KEYS[1], 'refused', 1)
    return {'stale', epoch}
end
if epoch < tonumber(ARGV[1]) or turn < tonumber(ARGV[3]) then return {'forgotten', 0} end
if turn >= tonumber(ARGV[2]) then return {'written', turn} end
if watermark > tonumber(ARGV[4]) then return {'backwards', stored[3]} end

redis.call('HSET', KEYS[1], 'turn', ARGV[2], 'watermark', ARGV[4], 'snapshot', ARGV[5])
local first_slate = #KEYS - tonumber(ARGV[8]) + 1
local now = tonumber(redis.call('TIME')[1])
-- Sentinels are values by name and time of expiry, the first that came: one that is missing before its time was dropped
-- by the server, or by somebody else.
redis.call('ZREMRANGEBYSCORE', KEYS[2], '-inf', now)
local watched, held = {}, {}
local sentinels = redis.call('ZRANGE', KEYS[2], 0, -1)
for _, key in ipairs(sentinels) do held[key] = true end
local room = tonumber(ARGV[9]) - #sentinels
local copied = redis.call('EXISTS', KEYS[3]) == 1
for i = 4, #KEYS do
    if copied then redis.call('SADD', KEYS[3], KEYS[i]) end
    if ARGV[i + 6] == '' then
        redis.call('DEL', KEYS[i])
        if held[KEYS[i]] then redis.call('ZREM', KEYS[2], KEYS[i]) end
    else
        -- One SET per key: MSET could not expire them, and unpack() of so many arguments overflows Lua's stack.
        redis.call('SET', KEYS[i], ARGV[i + 6], 'EX', i < first_slate and ARGV[6] or ARGV[7])
        if i < first_slate and (held[KEYS[i]] or room > 0) then
            if not held[KEYS[i]] then room = room - 1 end
            watched[#watched + 1] = now + ARGV[6]
            watched[#watched + 1] = KEYS[i]
        end
    end
end
if #watched > 0 then redis.call('ZADD', KEYS[2], unpack(watched)) end
return {'written', ARGV[2]}
