-- List a page of the UUIDs that a node holds, as far as the engine knows.
-- ARGV: prefix, node, cursor.
-- Returns: the next cursor, 0 at the end; then UUID and connection in turn.
local prefix, node, cursor = unpack(ARGV)
local page = redis.call('SSCAN', prefix .. ':s:' .. node, cursor, 'COUNT', 500)
local found = {page[1]}
for _, uuid in ipairs(page[2]) do
  local held = redis.call('HMGET', prefix .. ':u:' .. uuid, 'n', 'c')
  if held[1] == node then
    table.insert(found, uuid)
    table.insert(found, held[2])
  else
    redis.call('SREM', prefix .. ':s:' .. node, uuid)
  end
end
return found
