-- KEYS: the hash of what is recorded of a topic. ARGV: names and words in turn; those that it lacks are added.
for i = 1, #ARGV, 2 do redis.call('HSETNX', KEYS[1], ARGV[i], ARGV[i + 1]) end
return redis.call('HGETALL', KEYS[1])
