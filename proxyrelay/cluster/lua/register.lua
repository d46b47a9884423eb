-- Register a connection under its UUID.
-- ARGV: prefix, uuid, node, connection, user, stamp in us, 'new' or 'again',
--   limit of UUIDs per user (0: none), life of a tombstone in ms.
-- Returns: OK, takeovers in a row, whether the UUID was held lately;
--   or STALE, node, connection of the newer holder; or FOREIGN and the same; or FULL, LEASE.
local prefix, uuid, node, connection, user, stamp, mode, limit, recent = unpack(ARGV)
local DAY_MS, RECORD_SECONDS = 86400000, 300
local ROUND_US, SKEW_US = 60000000, 1000000

local function is_live(name)
  return redis.call('EXISTS', prefix .. ':n:' .. name) == 1
end

if not is_live(node) then
  return {'LEASE'}
end
local key = prefix .. ':u:' .. uuid
local held = redis.call('HMGET', key, 'n', 'c', 'u', 'e', 'r', 't')
local holder, old_connection, old_user = held[1], held[2], held[3]
local old_stamp = tonumber(held[4] or 0)
local rounds = tonumber(held[5] or 0)
local taken = tonumber(held[6] or 0)
local time = redis.call('TIME')
local now = time[1] * 1000000 + time[2]
local mine = tonumber(stamp)
local others = holder and holder ~= '' and holder ~= node and is_live(holder)
local code = '4004'

if others and old_user ~= user then
  if mode ~= 'again' or mine + SKEW_US >= old_stamp then
    return {'FOREIGN', holder, old_connection}
  end
  code = '4002'
elseif others then
  local name, old_name = node .. ':' .. connection, holder .. ':' .. old_connection
  if old_stamp > mine or (old_stamp == mine and old_name > name) then
    return {'STALE', holder, old_connection}
  end
end

local user_key = prefix .. ':c:' .. user
if mode == 'new' and tonumber(limit) > 0 and not redis.call('ZSCORE', user_key, uuid) then
  redis.call('ZREMRANGEBYSCORE', user_key, '-inf', time[1] - RECORD_SECONDS)
  if redis.call('ZCARD', user_key) >= tonumber(limit) then
    return {'FULL'}
  end
end

local same = holder == node and old_connection == connection
if not same then
  local replaces = others or holder == node
  if not replaces or now - taken > ROUND_US then
    rounds = 0
  end
  if replaces then
    rounds, taken = rounds + 1, now
  end
end
if others then
  redis.call('PUBLISH', prefix .. ':in:' .. holder,
    'kick ' .. uuid .. ' ' .. old_connection .. ' ' .. code .. '\n')
end
if holder and holder ~= '' and holder ~= node then
  redis.call('SREM', prefix .. ':s:' .. holder, uuid)
end
if old_user and old_user ~= user then
  redis.call('ZREM', prefix .. ':c:' .. old_user, uuid)
end
redis.call('HSET', key, 'n', node, 'c', connection, 'u', user, 'e', stamp,
  'r', rounds, 't', string.format('%.0f', taken))
redis.call('HDEL', key, 'l')
redis.call('PEXPIRE', key, DAY_MS)
redis.call('SADD', prefix .. ':s:' .. node, uuid)
redis.call('ZADD', user_key, time[1], uuid)
redis.call('PEXPIRE', user_key, DAY_MS)

local waiting = prefix .. ':w:' .. uuid
for _, name in ipairs(redis.call('SMEMBERS', waiting)) do
  redis.call('PUBLISH', prefix .. ':in:' .. name, 'arrived ' .. uuid .. '\n')
end
redis.call('DEL', waiting)
return {'OK', rounds, (holder and not same) and 1 or 0}
