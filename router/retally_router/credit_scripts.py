"""The Redis side of a payer's credit: holds and promises, with running sums so that no script walks what is open.

One hash for each payer: `promised:`, `used:` and `held:` by signer, `hold:` by job, and the sums `held` (of all holds)
and `owed` (of what each signer promised beyond what the chain has seen of it). `seen` is the block by which one of the
`used:` changed last: an older look at the chain is not counted with it, since its balance has that money still. All is
counted anew at the first hold, then once a minute, which drops holds that expired, and before a refusal, which must not
stand on an expired one. A sum that falls below zero was written by somebody else: it is counted anew too.

A lease is a hold of a process, under a name of its own, that covers many jobs. Beside it a second hash names the leases
of which something may be free, each with when it was last granted from by the store's clock. Keys that expire by the
same clock say that credit is wanted, by anybody or by one signer, and which job or lease has `ended` before it was
known whether its hold was heard: one that is heard later holds nothing.

A process says what it counts of a lease, and hears whether the store holds as much. A promise takes of holds no more
than it adds, and is refused where one of them has less than it would take: what a store forgot is not sold.
"""

COUNT_SECONDS = 60
#: So long after a refusal no block is granted: what is left is sold job by job.
WANTED_SECONDS = 3
#: A script is late by no more than a store that hangs, or by what the network holds back.
ENDED_SECONDS = 300
#: A block is at most this part of what is left, so that leases shrink as it goes to its end.
BLOCK_PART = 8

#: Much longer than a look at the chain is kept; a chain that began anew is behind for no longer.
SEEN_SECONDS = 600

SUMS = f"""
local function whole(number) return string.format('%.0f', number) end
local function add(key, field, amount)
  if amount ~= 0 and redis.call('HINCRBY', key, field, whole(amount)) < 0 then redis.call('HDEL', key, 'counted') end
end
local function owed(promised, used) return math.max(0, promised - used) end
-- The block by which a collection was seen last. No look is so old that it would count for longer than that.
local function last_seen(found, now)
  local block, at = string.match(found or '0|0', '^(%d+)|(%d+)$')
  return math.abs(now - tonumber(at)) > {SEEN_SECONDS} and 0 or tonumber(block)
end
local function set_used(key, signer, used, looked_at, now)
  local found = redis.call('HMGET', key, 'used:' .. signer, 'promised:' .. signer, 'seen')
  local promised, before = tonumber(found[2] or '0'), tonumber(found[1] or '0')
  if used == before then return 1 end
  if looked_at < last_seen(found[3], now) then return 0 end
  redis.call('HSET', key, 'used:' .. signer, whole(used), 'seen', whole(looked_at) .. '|' .. whole(now))
  add(key, 'owed', owed(promised, used) - owed(promised, before))
  return 1
end
"""

# An outstanding promise is one that the chain has not seen collected or reserved yet: promised - used, per signer.
# It is asked with one object of names; what is only written down again comes as text.
HOLD = f"""{SUMS}
local ask = cjson.decode(ARGV[1])
local key, job, signer, amount, now = KEYS[1], ask.job, ask.signer, ask.amount, ask.now
local balance, used, cap = ask.balance, ask.used, ask.cap
local lease, source = ask.lease, ask.source
if redis.call('EXISTS', KEYS[5]) == 1 then return {{'ended', '0'}} end
local had = 0
if lease ~= '' then
  had = tonumber(string.match(redis.call('HGET', key, 'hold:' .. lease) or '0|', '^(%d+)|'))
  if had < ask.counted or redis.call('EXISTS', KEYS[6]) == 1 then return {{'lost', '0'}} end
end
local function count()
  local all, promised, spent, held, total, outstanding = redis.call('HGETALL', key), {{}}, {{}}, {{}}, 0, 0
  for i = 1, #all, 2 do
    local kind, name = string.match(all[i], '^(%a+):(.+)$')
    if kind == 'promised' then promised[name] = tonumber(all[i + 1])
    elseif kind == 'used' then spent[name] = tonumber(all[i + 1])
    elseif kind == 'held' then redis.call('HDEL', key, all[i])
    elseif kind == 'hold' then
      local a, s, e = string.match(all[i + 1], '^(%d+)|(%w+)|(%d+)|%d+$')
      if tonumber(e) < now then redis.call('HDEL', key, all[i])
      else total, held[s] = total + tonumber(a), (held[s] or 0) + tonumber(a) end
    end
  end
  for name, value in pairs(promised) do outstanding = outstanding + owed(value, spent[name] or 0) end
  for name, value in pairs(held) do redis.call('HSET', key, 'held:' .. name, whole(value)) end
  redis.call('HSET', key, 'held', whole(total), 'owed', whole(outstanding), 'counted', whole(now))
end
local fields = {{'used:' .. signer, 'promised:' .. signer, 'held:' .. signer, 'held', 'owed', 'counted'}}
fields[7], fields[8] = 'hold:' .. job, 'seen'
local spent, promised, mine, held, outstanding, counted, own, whose, seen, moved
local function look()
  local found = redis.call('HMGET', key, unpack(fields))
  for i = 1, 5 do found[i] = tonumber(found[i] or '0') end
  spent, promised, mine, held, outstanding = unpack(found, 1, 5)
  counted = tonumber(found[6] or '')
  own, whose = string.match(found[7] or '0|', '^(%d+)|(%w*)')
  own, seen, moved = tonumber(own), last_seen(found[8], now), 0
  if source ~= '' and whose == '' then
    -- A job that holds alone has left its lease: what is there is others'.
    moved = tonumber(string.match(redis.call('HGET', key, 'hold:' .. source) or '0|', '^(%d+)|'))
    moved = math.min(moved, ask.moved)
  end
end
local capped, owing
local function missing()
  -- Asked for again, a job is held once, and so is what it takes with it out of its lease.
  capped = math.max(used, promised) + mine - (whose == signer and own or 0) - moved
  owing = outstanding + held - own - moved
  if capped + amount > cap then return {{'cap', whole(math.max(0, cap - capped))}} end
  if owing + amount > balance then return {{'funds', whole(math.max(0, balance - owing))}} end
end
look()
-- A balance of before some collection, beside what that was collected of: the same money twice.
if ask.block < seen then return {{'stale', '0'}} end
if used ~= spent then
  set_used(key, signer, used, ask.block, now)
  look()
end
if not counted or math.abs(now - counted) > {COUNT_SECONDS} or math.min(mine, held, outstanding) < 0 then
  count()
  look()
end
local refused = missing()
if refused and counted ~= now then
  count()
  look()
  refused = missing()
end
if refused then
  -- At a signer's cap the leases of others are no help.
  local is_cap, leases = refused[1] == 'cap', redis.call('HGETALL', KEYS[2])
  for i = 1, #leases, 2 do
    local holder = string.match(redis.call('HGET', key, 'hold:' .. leases[i]) or '', '^%d+|(%w+)|')
    if not holder then
      -- Its hold expired with its process.
      redis.call('HDEL', KEYS[2], leases[i])
    elseif not is_cap or holder == signer then
      redis.call('SET', is_cap and KEYS[4] or KEYS[3], '1', 'PX', {WANTED_SECONDS * 1000})
      refused[#refused + 1] = leases[i]
      refused[#refused + 1] = leases[i + 1]
    end
  end
  return refused
end
if lease ~= '' and whose == '' then
  local granted = math.min(ask.most, math.floor(math.min(cap - capped, balance - owing) / {BLOCK_PART}))
  if granted >= amount and granted > 0 and redis.call('EXISTS', KEYS[3], KEYS[4]) == 0 then
    local time = redis.call('TIME')
    add(key, 'held:' .. signer, granted)
    add(key, 'held', granted)
    redis.call('HSET', key, 'hold:' .. lease, table.concat({{whole(had + granted), signer, ask.expiry, ask.lane}}, '|'))
    redis.call('HSET', KEYS[2], lease, time[1] .. '.' .. time[2])
    return {{'lease', whole(granted)}}
  end
end
if moved > 0 then
  local rest, holder = string.match(redis.call('HGET', key, 'hold:' .. source), '^(%d+)(|.+)$')
  redis.call('HSET', key, 'hold:' .. source, whole(tonumber(rest) - moved) .. holder)
  add(key, 'held:' .. signer, -moved)
  add(key, 'held', -moved)
end
-- One that is heard only after a larger one takes nothing away from the job.
if whose == signer then amount = math.max(amount, own) end
if whose ~= '' and whose ~= signer then
  add(key, 'held:' .. whose, -own)
  add(key, 'held:' .. signer, amount)
else add(key, 'held:' .. signer, amount - own) end
add(key, 'held', amount - own)
redis.call('HSET', key, 'hold:' .. job, table.concat({{whole(amount), signer, ask.expiry, ask.lane}}, '|'))
return {{'ok', whole(moved)}}
"""

# In doubt, it leaves word for a hold that may be heard only now. Of a job that another router began no hold ends while
# the job is open elsewhere than where it was settled: it is for that.
RELEASE = f"""{SUMS}
local key, field = KEYS[1], 'hold:' .. ARGV[1]
local settled = {{}}
for i = 3, #ARGV do settled[ARGV[i]] = true end
for _, place in ipairs(#ARGV > 2 and redis.call('HKEYS', KEYS[4]) or {{}}) do
  if string.sub(place, 3, 2 + #ARGV[1]) == ARGV[1] and not settled[place] then return 0 end
end
if ARGV[2] == '1' then redis.call('SET', KEYS[3], '1', 'PX', {ENDED_SECONDS * 1000}) end
local amount, signer = string.match(redis.call('HGET', key, field) or '', '^(%d+)|(%w+)|')
redis.call('HDEL', KEYS[2], ARGV[1])
if not amount then return 0 end
redis.call('HDEL', key, field)
add(key, 'held', -tonumber(amount))
add(key, 'held:' .. signer, -tonumber(amount))
return 1
"""

# What a lease gives back, down to what its jobs need; nothing is free of it any more. Whether as much as is counted of
# it was there. In doubt, it leaves word for a block that may be heard only now.
SHRINK = f"""{SUMS}
local key, field, back, kept = KEYS[1], 'hold:' .. ARGV[1], tonumber(ARGV[2]), tonumber(ARGV[3])
local counted = tonumber(ARGV[4])
if ARGV[5] == '1' then redis.call('SET', KEYS[3], '1', 'PX', {ENDED_SECONDS * 1000}) end
redis.call('HDEL', KEYS[2], ARGV[1])
local amount, signer, rest = string.match(redis.call('HGET', key, field) or '', '^(%d+)|(%w+)(|.+)$')
if not amount then return counted > 0 and 0 or 1 end
amount = tonumber(amount)
local share = math.max(0, math.min(back, amount - kept))
if share == amount then redis.call('HDEL', key, field)
else redis.call('HSET', key, field, whole(amount - share) .. '|' .. signer .. rest) end
add(key, 'held', -share)
add(key, 'held:' .. signer, -share)
return amount >= counted and 1 or 0
"""

# Whether the look was late enough to be counted.
USED = f"{SUMS} return set_used(KEYS[1], ARGV[1], tonumber(ARGV[2]), tonumber(ARGV[3]), tonumber(ARGV[4]))"
