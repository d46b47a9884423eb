-- Pass on several messages. The link puts the text of forward.lua before this, as the
-- function `forward` of its ARGV.
-- ARGV: prefix; then UUID of the receiver, user, node, wait and message of each.
-- Returns: what forward returns for each.
local prefix = ARGV[1]
local found = {}
for i = 2, #ARGV, 5 do
  found[#found + 1] = forward({prefix, unpack(ARGV, i, i + 4)})
end
return found
