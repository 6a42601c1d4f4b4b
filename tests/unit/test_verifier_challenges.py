"""Challenges of silent points: which are tried again, and which are settled."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from retally.chain.connection import Chain
from retally.chain.silence import ChallengeStatus, challenge_id
from retally.chain.transactions import TxSender
from retally.errors import TransactionFailed
from retally.protocol.case import CommitRecord
from retally.protocol.eip712 import SigningKey
from retally.protocol.encoding import keccak
from retally_verifier.challenge_silence import SilenceChallenger
from retally_verifier.records import ChallengeRecord, Finding, FindingState
from retally_verifier.store import Store

OWNER, NODE, PAYER, VERIFIER = (SigningKey(keccak(n.encode())).address for n in ("owner", "node", "payer", "verifier"))
COMMIT = CommitRecord(7, NODE, OWNER, keccak(b"root"), keccak(b""), 1000, 300_000, 12, 5_000)
SILENT = Finding(
    commit_id=7, range_index=0, k=3, channel=keccak(b"channel"), point=3_500, owner=OWNER, node=NODE, payer=PAYER,
    time=5_000, state=FindingState.SILENT, verdict=3, log_e=0.0, detail={},
)  # fmt: skip


class FakeSilence:
    """The contract as this verifier sees it: nothing is challenged yet."""

    address = NODE

    def __init__(self) -> None:
        self.open: set[bytes] = set()

    async def challenge_of(self, challenge: bytes) -> Any:
        status = ChallengeStatus.OPEN if challenge in self.open else ChallengeStatus.NONE
        return SimpleNamespace(status=status, challenger=VERIFIER, deadline=2**40)

    async def challenge_bond(self) -> int:
        return 0

    def challenge(self, *given: Any) -> tuple[Any, ...]:
        return given


class FakeSender:
    """Sends what it is given, or is refused."""

    address = VERIFIER

    def __init__(self, error: str | None) -> None:
        self.error = error
        self.sent = 0

    async def send(self, call: Any) -> None:
        self.sent += 1
        if self.error is not None:
            raise TransactionFailed(self.error)


class FakeAsset:
    """An asset whose allowance suffices."""

    async def allowance(self, owner: str, spender: str) -> int:
        return 10**9


def challenger(folder: Path, error: str | None) -> tuple[SilenceChallenger, FakeSender, Store]:
    """A verifier that found two silent points."""
    store = Store(folder / "verifier.sqlite")
    store.add_commit(COMMIT, b"")
    for k in (3, 4):
        store.put_finding(replace(SILENT, k=k))
    silence = FakeSilence()
    sender = FakeSender(error)
    clock = SimpleNamespace(now=lambda: 5_000)
    chain = SimpleNamespace(silence=silence, asset=FakeAsset(), clock=clock)
    return SilenceChallenger(cast(Chain, chain), cast(TxSender, sender), store), sender, store


class TestStep:
    async def test_what_the_limit_refuses_is_tried_again(self, tmp_path: Path) -> None:
        loop, sender, store = challenger(tmp_path, "SilenceVerifierLimit")
        await loop.step()
        assert (sender.sent, list(store.challenges())) == (2, [])
        await loop.step()
        assert sender.sent == 4

    @pytest.mark.parametrize("error", ["SilenceNotEntitled", "SilenceAlreadyChallenged", "SilenceWindowClosed"])
    async def test_what_can_never_be_challenged_is_settled(self, tmp_path: Path, error: str) -> None:
        loop, sender, store = challenger(tmp_path, error)
        await loop.step()
        assert [record.closed for record in store.challenges()] == [True, True]
        await loop.step()
        assert sender.sent == 2

    async def test_any_other_refusal_is_told(self, tmp_path: Path) -> None:
        loop, _, _ = challenger(tmp_path, "SilenceSeedNotFixed")
        with pytest.raises(TransactionFailed):
            await loop.step()

    async def test_a_refusal_keeps_no_other_point_from_being_challenged(self, tmp_path: Path) -> None:
        loop, sender, _ = challenger(tmp_path, "SilenceSeedNotFixed")
        with pytest.raises(TransactionFailed):
            await loop.step()
        assert sender.sent == 2

    async def test_one_that_the_chain_does_not_show_yet_is_not_given_up(self, tmp_path: Path) -> None:
        # The RPC that answers is behind the one that took the transaction: nothing is open there yet.
        loop, sender, store = challenger(tmp_path, None)
        await loop.step()
        assert (sender.sent, store.challenges()) == (2, [])
        loop._chain.silence.open = {challenge_id(7, SILENT.channel, k) for k in (3, 4)}  # type: ignore[attr-defined]
        await loop.step()
        assert (sender.sent, [record.closed for record in store.challenges()]) == (2, [False, False])

    async def test_one_that_the_chain_took_back_is_followed_on(self, tmp_path: Path) -> None:
        loop, _, store = challenger(tmp_path, None)
        for k in (3, 4):
            store.put_challenge(ChallengeRecord(challenge_id(7, SILENT.channel, k), 7, 0, k, False))
        await loop.step()
        assert [record.closed for record in store.challenges()] == [False, False]
