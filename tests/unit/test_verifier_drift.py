"""The drift guard: bounds that hold are never called wrong, one owner freezes nothing, a freeze ends by itself."""

from __future__ import annotations

import itertools
import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import generate_latest
from tests.fakes_replay import OWNERS, TABLE
from tests.fakes_world import FakeClock
from typer.testing import CliRunner

from retally.chain.connection import Chain
from retally.protocol.calibration import PROBABILITY, MarginTable
from retally.protocol.encoding import Address, keccak, to_hex
from retally.protocol.evidence_file import EPOCH_SECONDS
from retally_verifier.commands import app
from retally_verifier.drift import (
    CLIP,
    CROSSED,
    FACTORS,
    FREEZE_SECONDS,
    REST_SECONDS,
    Group,
    drift_log_e,
    grouped,
    has_drifted,
    log_wealth,
    may_freeze,
)
from retally_verifier.drift_guard import DriftGuard, states_of
from retally_verifier.metrics import VerifierMetrics
from retally_verifier.open_case import CaseOpener
from retally_verifier.records import Finding, FindingState, Freeze, Pair
from retally_verifier.store import Store

NOW = 3 * EPOCH_SECONDS
PAIR = Pair(keccak(b"model"), keccak(b"node"), keccak(b"verifier"))
LEAST = 1_000
STAKES = st.integers(0, 100_000)


def detail(drift: float, pair: Pair = PAIR) -> dict[str, Any]:
    """What a finding keeps of its replays."""
    place = {"model": to_hex(pair.model_id), "nodeProfile": to_hex(pair.node_profile)}
    return {**place, "verifierProfiles": [to_hex(pair.verifier_profile)], "driftLogE": drift, "replays": []}


def finding(owner: Address, number: int, drift: float, time: int = NOW) -> Finding:
    """A replayed point of an owner."""
    digest = keccak(f"{owner} {number} {time}".encode())
    return Finding(
        commit_id=number, range_index=OWNERS.index(owner), k=number, channel=digest, point=number, owner=owner,
        node=owner, payer=owner, time=time, state=FindingState.REPLAYED, verdict=3, log_e=1.0, receipt_digest=digest,
        fee=1, answer=None, detail=detail(drift),
    )  # fmt: skip


@dataclass
class FakeChain:
    """Time, stakes and siblings."""

    stakes: Mapping[Address, int]
    siblings: frozenset[frozenset[Address]] = frozenset()
    time: int = NOW

    def as_chain(self) -> Chain:
        async def slashable(owner: Address, role: object) -> int:
            return self.stakes.get(owner, 0)

        async def minimum(role: object) -> int:
            return LEAST

        async def are_siblings(a: Address, b: Address) -> bool:
            return frozenset((a, b)) in self.siblings

        staking = SimpleNamespace(slashable=slashable, minimum=minimum)
        registry = SimpleNamespace(are_siblings=are_siblings)
        clock = SimpleNamespace(now=lambda: self.time)
        return cast(Chain, SimpleNamespace(staking=staking, registry=registry, clock=clock))


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    books = Store(tmp_path / "verifier.sqlite")
    yield books
    books.close()


def drift(store: Store, owners: list[Address], time: int = NOW, each: float = CLIP) -> None:
    """Findings of owners whose margins lie beyond the bounds."""
    with store.transaction("events"):
        for owner in owners:
            for number in range(6):
                store.put_finding(finding(owner, number + time % 97, each, time))


@st.composite
def tables(draw: st.DrawFn) -> MarginTable:
    """Any table: what a calibration may hold."""
    honest = draw(st.lists(st.integers(1, PROBABILITY // 3), min_size=3, max_size=5))
    edges = tuple(1 + 200_000 * n for n in range(len(honest)))
    return MarginTable(edges, (PROBABILITY, *honest), (PROBABILITY // 2, *[1] * len(honest)))


class TestEvidence:
    @given(table=tables(), below=st.data())
    def test_one_token_expects_at_most_one_while_the_bounds_hold(
        self, table: MarginTable, below: st.DataObject
    ) -> None:
        bounds = [value / PROBABILITY for value in table.honest]
        shares = [below.draw(st.floats(0, 1)) * bound for bound in bounds[1:]]
        scale = min(1.0, 1.0 / max(1e-9, sum(shares)))
        shares = [share * scale for share in shares]
        chances = [1 - sum(shares), *shares]
        points = [0.0, *[edge / 1e6 for edge in table.edges]]
        expected = sum(
            chance * math.exp(drift_log_e(np.array([point]), table))
            for chance, point in zip(chances, points, strict=True)
        )
        assert expected <= 1 + 1e-9

    def test_grows_where_margins_are_likelier_than_their_bounds(self) -> None:
        rng = np.random.default_rng(3)
        for factor in (3, 10):
            share = factor * TABLE.honest[1] / PROBABILITY
            jobs = [np.where(rng.random(256) < share, 0.01, 0.0) for _ in range(40)]
            assert log_wealth([drift_log_e(job, TABLE) for job in jobs]) > CROSSED

    def test_stays_poor_at_the_bounds_themselves(self) -> None:
        rng = np.random.default_rng(4)
        share = TABLE.honest[1] / PROBABILITY
        worst = [
            log_wealth([drift_log_e(np.where(rng.random(128) < share, 0.01, 0.0), TABLE) for _ in range(150)])
            for _ in range(40)
        ]
        assert max(worst) < CROSSED

    def test_needs_three_jobs_at_least(self) -> None:
        assert log_wealth([CLIP] * 2) < CROSSED <= log_wealth([CLIP] * 6)
        assert drift_log_e(np.full(500, 5.0), TABLE) == CLIP
        assert max(FACTORS) > 1


class TestDecision:
    @given(stakes=st.lists(STAKES, min_size=1, max_size=8), most=st.integers(0, 2))
    def test_two_parties_decide_nothing_whatever_their_stake(self, stakes: list[int], most: int) -> None:
        groups = [Group(frozenset({OWNERS[n]}), stake, n < most) for n, stake in enumerate(stakes)]
        assert not has_drifted(groups, LEAST)

    @given(stakes=st.lists(STAKES, min_size=3, max_size=8), crossed=st.integers(3, 8), tiny=st.integers(0, 5))
    def test_takes_most_of_the_stake_and_ignores_dust(self, stakes: list[int], crossed: int, tiny: int) -> None:
        groups = [Group(frozenset({OWNERS[n]}), stake, n < crossed) for n, stake in enumerate(stakes)]
        dust = [Group(frozenset(), LEAST - 1, has_crossed=True)] * tiny
        decided = has_drifted(groups, LEAST)
        assert has_drifted([*groups, *dust], LEAST) == decided
        counted = [group for group in groups if group.stake >= LEAST]
        if decided:
            assert sum(group.has_crossed for group in counted) >= 3
        elif all(group.has_crossed for group in counted) and len(counted) >= 3:
            raise AssertionError("everybody crossed")

    @given(stakes=st.lists(st.integers(LEAST, 10**24), min_size=1, max_size=8))
    def test_freezes_nothing_while_honest_owners_hold_half(self, stakes: list[int]) -> None:
        cheats = [Group(frozenset(), stake, has_crossed=True) for stake in stakes]
        honest = [Group(frozenset(), stake, has_crossed=False) for stake in stakes]
        assert not has_drifted([*cheats, *honest], LEAST)
        assert has_drifted(cheats, LEAST) == (len(cheats) >= 3)

    @given(crossed=st.sets(st.integers(0, 8), min_size=1, max_size=9))
    def test_siblings_are_one_party(self, crossed: set[int]) -> None:
        owners = sorted(OWNERS[n] for n in crossed)
        wealths = {owner: CROSSED if owner in owners else 0.0 for owner in OWNERS}
        chained = list(itertools.pairwise(owners))
        groups = grouped(wealths, dict.fromkeys(OWNERS, 10 * LEAST), chained)
        assert sum(group.has_crossed for group in groups) == 1
        assert not has_drifted(groups, LEAST)

    def test_a_pair_rests_after_a_freeze(self) -> None:
        assert may_freeze(NOW, None)
        assert not may_freeze(NOW, NOW - REST_SECONDS + 1)
        assert may_freeze(NOW, NOW - REST_SECONDS)


class TestGuard:
    async def test_freezes_a_pair_that_unrelated_stake_saw_drift(self, store: Store) -> None:
        drift(store, OWNERS[:4])
        chain = FakeChain(dict.fromkeys(OWNERS, 2 * LEAST))
        await DriftGuard(chain.as_chain(), store).step()
        (freeze,) = store.freezes()
        assert (freeze.pair, freeze.until - freeze.since) == (PAIR, FREEZE_SECONDS)
        assert "4 unrelated owners" in freeze.reason
        assert store.frozen_pairs(NOW + FREEZE_SECONDS - 1) == {PAIR}
        assert store.frozen_pairs(NOW + FREEZE_SECONDS) == frozenset()

    @pytest.mark.parametrize(
        ("drifted", "stakes", "siblings"),
        [
            (1, dict.fromkeys(OWNERS, 2 * LEAST), ()),
            (2, dict.fromkeys(OWNERS, 2 * LEAST), ()),
            (3, {**dict.fromkeys(OWNERS, 50 * LEAST), **dict.fromkeys(OWNERS[:3], LEAST)}, ()),
            (3, {**dict.fromkeys(OWNERS, 2 * LEAST), OWNERS[0]: LEAST - 1}, ()),
            (3, dict.fromkeys(OWNERS[:6], 2 * LEAST), ()),
            (3, dict.fromkeys(OWNERS, 2 * LEAST), (OWNERS[0], OWNERS[1])),
        ],
        ids=["one", "two", "little stake", "dust", "half", "siblings"],
    )
    async def test_freezes_nothing_for_a_few(
        self, store: Store, drifted: int, stakes: Mapping[Address, int], siblings: tuple[Address, ...]
    ) -> None:
        drift(store, OWNERS[:drifted])
        drift(store, OWNERS[drifted:], each=-0.2)
        chain = FakeChain(stakes, frozenset({frozenset(siblings)}))
        await DriftGuard(chain.as_chain(), store).step()
        assert store.freezes() == []

    async def test_begins_anew_after_a_freeze_and_lets_the_pair_rest(self, store: Store) -> None:
        drift(store, OWNERS[:4])
        chain = FakeChain(dict.fromkeys(OWNERS, 2 * LEAST))
        guard = DriftGuard(chain.as_chain(), store)
        await guard.step()
        await guard.step()
        assert len(store.freezes()) == 1
        chain.time += FREEZE_SECONDS + 10
        await guard.step()
        (state,) = states_of(store, chain.time)
        assert (state.wealths, state.frozen_until) == ({}, None)
        drift(store, OWNERS[:4], chain.time)
        await guard.step()
        assert len(store.freezes()) == 1
        chain.time = NOW + FREEZE_SECONDS + REST_SECONDS
        await guard.step()
        assert len(store.freezes()) == 2

    def test_metrics_count_it(self, store: Store) -> None:
        store.put_freeze(Freeze(PAIR, NOW, NOW + FREEZE_SECONDS, "drift"))
        clock = FakeClock()
        for time, value in ((NOW, 1), (NOW + FREEZE_SECONDS, 0)):
            clock.time = time
            page = generate_latest(VerifierMetrics(store, clock).registry).decode()
            assert f"retally_verifier_frozen_pairs {value}.0" in page
            assert "retally_verifier_suspects 0.0" in page

    async def test_no_case_rests_on_a_frozen_pair(self, store: Store) -> None:
        drift(store, OWNERS[:1])
        opener = CaseOpener(FakeChain({}).as_chain(), cast(Any, None), store, "http://verifier")
        store.put_freeze(Freeze(PAIR, NOW, NOW + FREEZE_SECONDS, "drift"))
        assert opener.wealth_of(OWNERS[0], NOW) == (0.0, [])

    def test_counts_only_what_was_replayed(self, store: Store) -> None:
        store.put_finding(replace(finding(OWNERS[0], 1, CLIP), state=FindingState.FROZEN))
        store.put_finding(replace(finding(OWNERS[0], 2, CLIP), detail={"reason": "nothing to replay"}))
        assert states_of(store, NOW) == []


def test_status_shows_what_is_frozen_and_who_is_suspect(tmp_path: Path) -> None:
    contracts = {"Escrow": OWNERS[0], "Registry": OWNERS[1]}
    (tmp_path / "deployment.json").write_text(json.dumps({"chainId": 31337, "contracts": contracts}))
    (tmp_path / "verifier.toml").write_text(
        'rpc_url = "http://127.0.0.1:9"\ndeployment = "deployment.json"\npublic_url = "http://v"\ndata_dir = "data"\n'
        f'key = "0x{"11" * 32}"\nmodel_dirs = ["m"]\ncalibration_dir = "c"\n'
    )
    books = Store(tmp_path / "data" / "verifier.sqlite")
    books.put_freeze(Freeze(PAIR, NOW, NOW + FREEZE_SECONDS, "drift"))
    lone = {"replays": [{"owner": OWNERS[3], "alone": True}]}
    for number in range(3):
        books.put_finding(replace(finding(OWNERS[0], number, -0.5), detail={**detail(-0.5), **lone}))
    books.close()
    printed = CliRunner().invoke(app, ["status", "--config", str(tmp_path / "verifier.toml"), "--json"])
    assert printed.exit_code == 0, printed.output
    shown = json.loads(printed.stdout)
    (frozen,) = shown["frozen"]
    assert (frozen["until"], frozen["model"]) == (NOW + FREEZE_SECONDS, to_hex(PAIR.model_id))
    assert "retally verifier calibrate" in frozen["next"]
    (suspect,) = shown["suspects"]
    assert suspect["owner"] == OWNERS[3]
    assert "3 of 3" in suspect["reason"]
