"""What of a channel's total is for which job, as Redis counts it (decision 29).

A hash for each payer has, by the place of a job among its open ones, `promised|held|bare|billed`: what is for it, how
much of that came out of a hold, how much out of nothing that could be found, and what its receipts on record cost. A
channel's `kept` is the sum of what is for its jobs beyond their receipts. What of the total is neither billed nor kept
is spare: left by jobs that were forgotten. A store that lost its last writes has less of each than its routers count:
they say what they know of, and what one of them knows to be for somebody is not spare.

A job that another router settled and forgot is promised nothing: who began it has nothing left to pay. Only a receipt
that was not on record makes it owe again. Where nobody else forgot it, whoever began it knows that the store did.
"""

from __future__ import annotations

from retally_router.credit_scripts import SUMS

#: Whoever began a job has heard by then that another settled it.
FORGOTTEN_SECONDS = 3600

# The promise is on record before the voucher that makes it leaves. By what less is for a job it takes of what is spare,
# then of what is held for it: counted twice, that would refuse the last jobs that the deposit covers. KEYS: the
# channel, the credit, what is for whom, the open jobs, what others forgot. ARGV: the signer, what by the router's count
# is the total, what of that is kept or billed, what total is wanted, and for each job its place, what is to be for it
# at least and at most, what was by that count, whether the router began it, its hold, and whether that has to do. No
# more than the least is taken of holds where the total is enough. All that is asked is done, or nothing. Answers 1, or
# 2 and the hold that has too little, with what is for each job.
PROMISE = f"""{SUMS}
local key, signer = KEYS[2], ARGV[1]
local line = redis.call('HMGET', KEYS[1], 'promised', 'kept', 'billed', 'closed')
local before, known = tonumber(line[1] or '0'), tonumber(ARGV[2])
local total = math.max(before, known)
-- An older store says only how far it is tiled.
local used = tonumber(line[2] or '0') + tonumber(line[3] or line[4] or '0')
local spare = math.max(0, total - math.max(used, tonumber(ARGV[3])))
local asks, needs, kept, over = {{}}, {{}}, 0, total - tonumber(ARGV[4])
for i = 5, #ARGV, 7 do
  local ask = {{place = ARGV[i], hold = 'hold:' .. ARGV[i + 5], has_to_do = ARGV[i + 6], more = 0, rest = 0}}
  local mark = redis.call('HGET', KEYS[3], ask.place)
  if not mark and redis.call('HEXISTS', KEYS[4], ask.place) == 1 then mark = '0|0|0|0' end
  if not mark and ARGV[i + 4] == '1' and redis.call('HEXISTS', KEYS[5], ask.place) == 0 then mark = '0|0|0|0' end
  if mark then
    ask.had, ask.held, ask.bare, ask.billed = string.match(mark, '^(%d+)|(%d+)|(%d+)|(%d+)$')
    ask.had, ask.held, ask.bare = tonumber(ask.had), tonumber(ask.held), tonumber(ask.bare)
    ask.lost = before < known and math.max(0, tonumber(ARGV[i + 3]) - ask.had) or 0
    ask.more = math.max(0, tonumber(ARGV[i + 2]) - ask.had - ask.lost)
    ask.least = math.max(0, tonumber(ARGV[i + 1]) - ask.had - ask.lost)
    local left = math.min(spare, ask.more)
    spare, ask.rest = spare - left, ask.more - left
    over = over + ask.rest
  end
  asks[#asks + 1] = ask
end
-- What is spare in the store may be less than the router believes, and it asked for so much more.
for i = #asks, 1, -1 do
  local ask = asks[i]
  if over > 0 and ask.rest > 0 then
    local cut = math.min(over, ask.rest, ask.more - ask.least)
    over, ask.rest, ask.more = over - cut, ask.rest - cut, ask.more - cut
  end
  if ask.rest > 0 and ask.has_to_do == '1' then needs[ask.hold] = (needs[ask.hold] or 0) + ask.rest end
end
local reply, lacking = {{1, whole(before), '', ''}}, nil
for hold, need in pairs(needs) do
  local amount = string.match(redis.call('HGET', key, hold) or '0|', '^(%d+)|')
  if tonumber(amount) < need then lacking = hold end
end
for _, ask in ipairs(asks) do
  local got, more = 0, ask.more + (ask.lost or 0)
  if not lacking and ask.rest > 0 then
    local amount, holder, tail = string.match(redis.call('HGET', key, ask.hold) or '', '^(%d+)|(%w+)(|.+)$')
    if amount then
      got = math.min(tonumber(amount), ask.rest)
      redis.call('HSET', key, ask.hold, whole(tonumber(amount) - got) .. '|' .. holder .. tail)
      add(key, 'held', -got)
      add(key, 'held:' .. holder, -got)
    end
    total = total + ask.rest
  end
  if not lacking and more > 0 then
    kept, ask.had = kept + more, ask.had + more
    ask.held, ask.bare = ask.held + got, ask.bare + ask.rest - got
    local mark = {{whole(ask.had), whole(ask.held), whole(ask.bare), ask.billed}}
    redis.call('HSET', KEYS[3], ask.place, table.concat(mark, '|'))
  end
  reply[#reply + 1] = ask.had and whole(ask.had) or '-1'
  reply[#reply + 1] = whole(ask.held or 0)
  reply[#reply + 1] = whole(ask.bare or 0)
end
if lacking then
  reply[1], reply[3], reply[4] = 2, whole(before), string.sub(lacking, 6)
  return reply
end
if kept > 0 then redis.call('HINCRBY', KEYS[1], 'kept', whole(kept)) end
if total > before then
  redis.call('HSET', KEYS[1], 'promised', whole(total))
  local promised = redis.call('HINCRBY', key, 'promised:' .. signer, whole(total - before))
  local seen = tonumber(redis.call('HGET', key, 'used:' .. signer) or '0')
  add(key, 'owed', owed(promised, seen) - owed(promised - (total - before), seen))
end
reply[3] = whole(total)
return reply
"""

# A job that is open nowhere any more: what is for it beyond its receipts is spare. KEYS: the channel, what is for whom,
# the open jobs, what others forgot; ARGV: its place, and whether another began it.
FORGET = f"""
local had, billed = string.match(redis.call('HGET', KEYS[2], ARGV[1]) or '', '^(%d+)|%d+|%d+|(%d+)$')
if had then
  redis.call('HINCRBY', KEYS[1], 'kept', string.format('%.0f', tonumber(billed) - tonumber(had)))
  redis.call('HDEL', KEYS[2], ARGV[1])
end
if ARGV[2] == '1' then
  redis.call('HSET', KEYS[4], ARGV[1], '1')
  redis.call('EXPIRE', KEYS[4], {FORGOTTEN_SECONDS})
end
return redis.call('HDEL', KEYS[3], ARGV[1])
"""
