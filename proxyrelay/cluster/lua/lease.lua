-- Renew the lease of a node.
-- ARGV: prefix, node, life in ms, info, a random epoch for an empty engine.
-- Returns: whether the lease was there, seconds, microseconds, the epoch.
local prefix, node, life, info, epoch = unpack(ARGV)
local lease = prefix .. ':n:' .. node
local held = redis.call('EXISTS', lease)
redis.call('SET', lease, info, 'PX', life)
redis.call('SADD', prefix .. ':nodes', node)
redis.call('SET', prefix .. ':epoch', epoch, 'NX')
local time = redis.call('TIME')
return {held, time[1], time[2], redis.call('GET', prefix .. ':epoch')}
