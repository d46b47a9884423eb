-- Assert registrations of a node again. The link puts the text of register.lua before
-- this, as the function `register` of its ARGV.
-- ARGV: prefix, node, life of a tombstone in ms; then UUID, connection, user and stamp
--   of each.
-- Returns: what register returns for each.
local prefix, node, recent = ARGV[1], ARGV[2], ARGV[3]
local found = {}
for i = 4, #ARGV, 4 do
  found[#found + 1] = register({prefix, ARGV[i], node, ARGV[i + 1], ARGV[i + 2],
    ARGV[i + 3], 'again', '0', recent})
end
return found
