-- List the nodes that have ever taken a lease, until they are reaped.
-- ARGV: prefix.
-- Returns: names and texts of their leases in turn; an empty text without a lease.
local prefix = ARGV[1]
local found = {}
for _, node in ipairs(redis.call('SMEMBERS', prefix .. ':nodes')) do
  table.insert(found, node)
  table.insert(found, redis.call('GET', prefix .. ':n:' .. node) or '')
end
return found
