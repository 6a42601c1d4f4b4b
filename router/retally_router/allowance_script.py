"""The Redis side of key limits: leases of an allowance, granted, renewed and given back in one round trip.

One hash for each key, under a hash tag of its own. For each kind of limit it holds what was used in a window and one
lease for each router: `reserved` for jobs in flight, `free` for jobs to come. A router gives its lease back when it
stops; one that crashed does not renew it, and all of it counts as used, since nobody knows what it had begun.
Near the end of an allowance leases shrink, so that no router sits on what another one is asked for.
"""

SHARE = 8

# ARGV: holder, lease ms, whether something is asked for, then for each kind:
# name, window seconds (0: for ever), limit, used since the last time, its window, reserved, need, most that one
# leases, and what it keeps of its free part when it asks for nothing
LEASE = """
local key, holder, lease_ms, wants = KEYS[1], ARGV[1], tonumber(ARGV[2]), ARGV[3] == '1'
local time = redis.call('TIME')
local now = tonumber(time[1]) * 1000 + math.floor(tonumber(time[2]) / 1000)
local all, fields = redis.call('HGETALL', key), {}
for i = 1, #all, 2 do fields[all[i]] = all[i + 1] end
local function number(name) return tonumber(fields[name] or '0') end
local function add(name, amount)
  if amount > 0 then fields[name] = redis.call('HINCRBY', key, name, string.format('%.0f', amount)) end
end
local out, states, enough, forever = {}, {}, true, false
for at = 4, #ARGV, 9 do
  local name, seconds, limit = ARGV[at], tonumber(ARGV[at + 1]), tonumber(ARGV[at + 2])
  local delta, delta_window = tonumber(ARGV[at + 3]), tonumber(ARGV[at + 4])
  local reserved, need, most = tonumber(ARGV[at + 5]), tonumber(ARGV[at + 6]), tonumber(ARGV[at + 7])
  local keep = tonumber(ARGV[at + 8])
  local window, left, passed = 0, 0, 0
  if seconds == 0 then forever = true else
    window = math.floor(now / (seconds * 1000))
    passed = (now % (seconds * 1000)) / (seconds * 1000)
    left = seconds * 1000 - now % (seconds * 1000)
  end
  local current = name .. ':' .. string.format('%.0f', window)
  local before = name .. ':' .. string.format('%.0f', window - 1)
  if seconds == 0 or delta_window == window then add(current, delta)
  elseif delta_window == window - 1 then add(before, delta) end
  local others, lost = 0, 0
  for field, value in pairs(fields) do
    local kind, who = string.match(field, '^(%w+)@(.+)$')
    if kind == name then
      local held, free, its, ends = string.match(value, '^(%d+):(%d+):(%d+):(%d+)$')
      if who ~= holder then
        if tonumber(ends) < now then
          redis.call('HDEL', key, field)
          lost = lost + tonumber(held)
          if tonumber(its) == window then lost = lost + tonumber(free) end
        else
          others = others + tonumber(held)
          if tonumber(its) == window then others = others + tonumber(free) end
        end
      end
    elseif seconds > 0 then
      local kind_of_use, old = string.match(field, '^(%w+):(%d+)$')
      if kind_of_use == name and tonumber(old) < window - 1 then redis.call('HDEL', key, field) end
    end
  end
  add(current, lost)
  local earlier = 0
  if seconds == 60 then earlier = math.ceil(number(before) * (1 - passed)) end
  local available = math.max(0, limit - number(current) - earlier - others - reserved)
  if available < need then enough = false end
  local wait = left
  if seconds == 60 and limit - number(current) - others - reserved >= need and number(before) > 0 then
    wait = math.min(left, math.ceil((need - available) / number(before) * 60000))
  end
  table.insert(states, {name, window, available, need, reserved, left, math.max(1, wait), most, keep})
end
for _, state in ipairs(states) do
  local free = 0
  if not wants then free = math.min(state[9], state[3]) end
  if enough and wants then
    free = math.max(state[4], math.min(state[8], math.floor(state[3] / SHARE)))
  end
  local field = state[1] .. '@' .. holder
  if free == 0 and state[5] == 0 then redis.call('HDEL', key, field) else
    redis.call('HSET', key, field, string.format('%.0f:%.0f:%.0f:%.0f', state[5], free, state[2], now + lease_ms))
  end
  local ok = state[3] >= state[4] and 1 or 0
  local shown = {ok, free, state[3] - free, state[2], state[6], state[7]}
  for i, value in ipairs(shown) do shown[i] = string.format('%.0f', value) end
  table.insert(out, shown)
end
if forever then redis.call('PERSIST', key) else redis.call('EXPIRE', key, 172800) end
return out
""".replace("SHARE", str(SHARE))
