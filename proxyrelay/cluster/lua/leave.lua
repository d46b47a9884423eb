-- End the lease of a node that stops.
-- ARGV: prefix, node.
-- Returns: 1 if there was one; else 0.
local prefix, node = unpack(ARGV)
return redis.call('DEL', prefix .. ':n:' .. node)
