-- Give up a UUID, if this connection still holds it.
-- ARGV: prefix, uuid, node, connection, life of the tombstone in ms.
-- Returns: 1 if it did; else 0.
local prefix, uuid, node, connection, recent = unpack(ARGV)
local key = prefix .. ':u:' .. uuid
local held = redis.call('HMGET', key, 'n', 'c', 'u')
if held[1] ~= node or held[2] ~= connection then
  return 0
end
local time = redis.call('TIME')
redis.call('HSET', key, 'n', '',
  'l', string.format('%.0f', time[1] * 1000000 + time[2]))
redis.call('PEXPIRE', key, recent)
redis.call('SREM', prefix .. ':s:' .. node, uuid)
redis.call('ZREM', prefix .. ':c:' .. held[3], uuid)
return 1
