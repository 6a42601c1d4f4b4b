"""A channel's receipts in the order of its money: up to where they tile it, and those beyond a gap (R-20)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

# Receipts are facts: they are added, in whatever order and by whichever process, and nothing is taken back. So two
# routers that write to one channel, after a lane went over, end with the same line. What is new is counted with what is
# for its job (`earmark_scripts.py`). KEYS: the channel, what of its total is for whom; ARGV: how far it is known to be
# tiled, then each receipt's cumFrom, cumTo and job's place. Answers all that is on record now.
ADD_RECEIPTS = """
local key = KEYS[1]
local function whole(number) return string.format('%.0f', number) end
local before = tonumber(redis.call('HGET', key, 'closed') or '0')
for i = 2, #ARGV, 3 do
  local field, to, place = 'beyond:' .. ARGV[i], tonumber(ARGV[i + 1]), ARGV[i + 2]
  local known = tonumber(redis.call('HGET', key, field) or ARGV[i])
  if tonumber(ARGV[i]) >= before and to > known then
    redis.call('HSET', key, field, whole(to))
    redis.call('HINCRBY', key, 'kept', whole(known - to))
    local had, billed = string.match(redis.call('HGET', KEYS[2], place) or '0|0|0|0', '^(%d+|%d+|%d+)|(%d+)$')
    redis.call('HSET', KEYS[2], place, had .. '|' .. whole(tonumber(billed) + to - known))
  end
end
local closed = math.max(before, tonumber(ARGV[1]))
local to = redis.call('HGET', key, 'beyond:' .. whole(closed))
while to do
  redis.call('HDEL', key, 'beyond:' .. whole(closed))
  closed = tonumber(to)
  to = redis.call('HGET', key, 'beyond:' .. whole(closed))
end
redis.call('HSET', key, 'closed', whole(closed))
local line, billed = redis.call('HGETALL', key), closed
for i = 1, #line, 2 do
  local start = string.match(line[i], '^beyond:(%d+)$')
  if start and tonumber(start) >= closed then billed = billed + tonumber(line[i + 1]) - tonumber(start)
  -- What is billed by now, where it is closed by what a node counts or receipts contradict each other.
  elseif start then redis.call('HDEL', key, line[i]) end
end
redis.call('HSET', key, 'billed', whole(billed))
return line
"""
_BEYOND = b"beyond:"


@dataclass(slots=True)
class Tiling:
    """What receipts bill, in units of money from the channel's start."""

    closed: int = 0
    #: By cumFrom, the cumTo of receipts beyond a gap.
    beyond: dict[int, int] = field(default_factory=dict)

    @classmethod
    def of(cls, line: Mapping[bytes, bytes]) -> Tiling:
        """What is on record of a channel."""
        tiling = cls(int(line.get(b"closed", 0)))
        names = [name for name in line if name.startswith(_BEYOND)]
        end = tiling.closed
        for start, to in sorted((int(name.removeprefix(_BEYOND)), int(line[name])) for name in names):
            if start >= end:
                tiling.beyond[start] = end = to
        tiling.close_to(tiling.closed)
        return tiling

    @classmethod
    def of_reply(cls, flat: Sequence[bytes]) -> Tiling:
        """The same, as the script answers it: names and values in turn."""
        return cls.of(dict(zip(flat[::2], flat[1::2], strict=True)))

    @property
    def billed(self) -> int:
        """What all receipts cost, also those beyond a gap."""
        return self.closed + sum(to - start for start, to in self.beyond.items())

    def is_free(self, start: int, to: int) -> bool:
        """Whether no receipt bills any of that."""
        others = self.beyond.items()
        return start >= self.closed and not any(start < other_to and other < to for other, other_to in others)

    def has(self, start: int, to: int) -> bool:
        """Whether that receipt is among them."""
        return to <= self.closed or self.beyond.get(start) == to

    def add(self, start: int, to: int) -> None:
        """One more receipt, if nothing of it is billed yet."""
        if self.is_free(start, to):
            self.beyond[start] = to
            self.close_to(self.closed)

    def close_to(self, closed: int) -> None:
        """All up to there is billed."""
        self.closed = max(self.closed, closed)
        while self.closed in self.beyond:
            self.closed = self.beyond.pop(self.closed)
        self.beyond = {start: to for start, to in self.beyond.items() if start > self.closed}

    def add_all(self, other: Tiling) -> int:
        """All receipts of another count of the same channel; answers how much more is billed by it."""
        before = self.billed
        self.close_to(other.closed)
        for start, to in other.beyond.items():
            # Most are known: a gap may stay for long, and what lies beyond it is many.
            if start not in self.beyond:
                self.add(start, to)
        return max(0, self.billed - before)
