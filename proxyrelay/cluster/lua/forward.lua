-- Pass a message on to the node of its receiver.
-- ARGV: prefix, uuid of the receiver, user of the sender, node of the sender,
--   how long an offer may wait in ms (0: it may not), the message.
-- Returns: SENT, node, connection; or HOLD, NONE, FOREIGN.
local prefix, uuid, user, node, hold, message = unpack(ARGV)
local held = redis.call('HMGET', prefix .. ':u:' .. uuid, 'n', 'c', 'u')
local holder = held[1]
if not holder then
  return {'NONE'}
end
if holder ~= '' and redis.call('EXISTS', prefix .. ':n:' .. holder) == 1 then
  if held[3] ~= user then
    return {'FOREIGN'}
  end
  local time = redis.call('TIME')
  local head = 'message ' .. uuid .. ' ' .. held[2] .. ' '
    .. string.format('%.0f', time[1] * 1000000 + time[2]) .. '\n'
  if redis.call('PUBLISH', prefix .. ':in:' .. holder, head .. message) > 0 then
    return {'SENT', holder, held[2]}
  end
end
if hold == '0' or held[3] ~= user then
  return {'NONE'}
end
local waiting = prefix .. ':w:' .. uuid
redis.call('SADD', waiting, node)
redis.call('PEXPIRE', waiting, hold)
return {'HOLD'}
