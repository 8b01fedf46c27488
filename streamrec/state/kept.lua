-- KEYS: the partition's mark, its sentinels. ARGV: the server's run id, its count of evicted keys, 1 to accept what is lost.
-- Returns whether there is a mark, how many sentinels are gone that have not expired, and how many keys the server has
-- evicted since this partition was first looked at or its losses were last accepted.
if redis.call('EXISTS', KEYS[1]) == 0 then return {0, redis.call('ZCARD', KEYS[2]), 0} end
local gone = {}
-- Five seconds: clocks of a server and of the one it failed over to may differ.
for _, key in ipairs(redis.call('ZRANGEBYSCORE', KEYS[2], redis.call('TIME')[1] + 5, '+inf')) do
    if redis.call('EXISTS', key) == 0 then gone[#gone + 1] = key end
end
local base = redis.call('HMGET', KEYS[1], 'run', 'evicted')
local before = base[1] == ARGV[1] and tonumber(base[2]) or 0
local evicted = tonumber(ARGV[2])
local since = base[1] and (evicted >= before and evicted - before or evicted) or 0
if not base[1] or ARGV[3] == '1' then
    redis.call('HSET', KEYS[1], 'run', ARGV[1], 'evicted', ARGV[2])
    if #gone > 0 then redis.call('ZREM', KEYS[2], unpack(gone)) end
end
return {1, #gone, since}
