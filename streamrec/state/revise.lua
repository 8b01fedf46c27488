-- KEYS: the list of revisions. ARGV: the revision as JSON, the number it must follow, how many are kept.
-- Returns whether it is written, now or by this very command when it came before, and the newest number otherwise.
local newest = redis.call('LINDEX', KEYS[1], 0)
if newest == ARGV[1] then return {1, 0} end
local number = 0
if newest then number = cjson.decode(newest).number end
if number ~= tonumber(ARGV[2]) then return {0, number} end
redis.call('LPUSH', KEYS[1], ARGV[1])
redis.call('LTRIM', KEYS[1], 0, tonumber(ARGV[3]) - 1)
return {1, 0}
