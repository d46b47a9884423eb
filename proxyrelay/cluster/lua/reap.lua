-- Turn the registrations of a node without a lease into tombstones.
-- ARGV: prefix, node, cursor, life of a tombstone in ms.
-- Returns: the next cursor, 0 at the end; or -1 if the node has a lease.
local prefix, node, cursor, recent = unpack(ARGV)
if redis.call('EXISTS', prefix .. ':n:' .. node) == 1 then
  return '-1'
end
local set = prefix .. ':s:' .. node
local time = redis.call('TIME')
local now = string.format('%.0f', time[1] * 1000000 + time[2])
local page = redis.call('SSCAN', set, cursor, 'COUNT', 500)
for _, uuid in ipairs(page[2]) do
  local key = prefix .. ':u:' .. uuid
  local held = redis.call('HMGET', key, 'n', 'u')
  if held[1] == node then
    redis.call('HSET', key, 'n', '', 'l', now)
    redis.call('PEXPIRE', key, recent)
    redis.call('ZREM', prefix .. ':c:' .. held[2], uuid)
  end
end
if page[1] == '0' then
  redis.call('DEL', set)
  redis.call('SREM', prefix .. ':nodes', node)
end
return page[1]
