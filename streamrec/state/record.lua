-- KEYS: the hash of what is recorded of a topic. ARGV: its names and words in turn, in place of those it has.
redis.call('DEL', KEYS[1])
if #ARGV > 0 then redis.call('HSET', KEYS[1], unpack(ARGV)) end
