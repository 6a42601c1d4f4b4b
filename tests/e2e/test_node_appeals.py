"""A node's defence against the real Court: a wrong verdict, the appeal, a larger jury, and what each party has then."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

import pytest
from tests.conftest import RunningAnvil

from retally.chain.connection import Chain
from retally.chain.court import CaseStatus, Opening, vote_hash
from retally.chain.deploy import ANVIL_KEY, Catalogue, Model, Profile, deploy
from retally.chain.deployment import Deployment
from retally.chain.staking import Role
from retally.chain.transactions import TxSender
from retally.errors import PaymentRequired, TransactionFailed
from retally.protocol.case import Shown, VerdictKind
from retally.protocol.eip712 import SigningKey
from retally.protocol.encoding import Address, keccak, to_hex
from retally.protocol.voucher import NodeAuth
from retally_node.court_view import ChainCourt
from retally_node.defence import Budget, Defence
from retally_node.defence_view import ChainDefence
from retally_node.weigh_case import CaseFacts, Opinion

RUSD = 10**6
STAKE = 2_000 * RUSD
MODEL_ID, PROFILE_ID = keccak(b"defence model"), keccak(b"defence profile")
OTHERS = 10
SALT = bytes(32)
DAY = 86_400
SHOWN = (Shown(1, keccak(b"receipt"), Address("0x" + "11" * 20), 5),)
#: The fee of an appeal is lost whoever wins it, since it pays the jury: twice the case fee. So are its two tips, but
#: for those that its steps earn.
FEE, TIP, COST = 60 * RUSD, RUSD // 2, 101 * RUSD


class Innocent:
    """What an honest node's engine says of its own answers."""

    async def weigh(self, facts: CaseFacts) -> Opinion:
        assert facts.shown == SHOWN
        return Opinion(VerdictKind.MATCH, 0)


@dataclass(frozen=True)
class Owner:
    """An operator with one node."""

    key: SigningKey
    sender: TxSender
    node: SigningKey

    @property
    def address(self) -> Address:
        return self.key.address


async def funded(chain: Chain, key: SigningKey, amount: int) -> TxSender:
    sender = TxSender(chain, key)
    await chain.rpc.request("anvil_setBalance", key.address, hex(10**20))
    if amount:
        await sender.send(chain.asset.call("faucet", key.address, amount))
    return sender


async def operator(chain: Chain, name: str) -> Owner:
    """Stake, register a node that may act for its owner, and stand for jury duty."""
    owner = Owner(
        key := SigningKey(keccak(f"defence {name}".encode())),
        await funded(chain, key, STAKE),
        SigningKey(keccak(f"defence node {name}".encode())),
    )
    consent = NodeAuth(key.address, owner.node.address, chain.clock.now() + 600)
    signature = owner.node.sign(consent.digest(chain.domain))
    for call in (
        chain.asset.approve(chain.staking.address, STAKE),
        chain.staking.stake(Role.OPERATOR, STAKE),
        chain.registry.register_node(consent, signature, MODEL_ID, PROFILE_ID, "http://node"),
        chain.registry.set_delegate(owner.node.address, True),
        chain.juror_pools.enlist(owner.node.address),
    ):
        await owner.sender.send(call)
    return owner


@dataclass(frozen=True)
class Trial:
    """A case against an honest owner, whose jurors vote as they are told."""

    chain: Chain
    accused: Owner
    others: dict[Address, Owner]
    challenger: TxSender

    async def open(self) -> None:
        await self.challenger.send(self.chain.asset.approve(self.chain.court.address, 10**12))
        # Who bonds in the second of the opening is no juror of it.
        await self.pass_time(5)
        pool = await self.chain.juror_pools.pool_of(MODEL_ID, PROFILE_ID)
        opening = Opening(self.accused.address, pool, SHOWN, keccak(b"file"), "http://challenger/evidence")
        await self.challenger.send(self.chain.court.open(opening))
        await self.mine(10)
        await self.challenger.send(self.chain.court.draw(1))

    async def vote(self, round_: int, verdict: VerdictKind) -> int:
        """All that sit vote the same; the phase of revealing begins. Returns the size of the jury."""
        court, jury = self.chain.court, await self.chain.court.jurors_of(1, round_)
        seats = [(seat, self.others[juror]) for seat, juror in enumerate(jury)]
        hashes = {owner.address: vote_hash(1, round_, owner.address, verdict, 0, SALT) for _, owner in seats}
        await asyncio.gather(
            *(owner.sender.send(court.commit_vote(1, round_, seat, hashes[owner.address])) for seat, owner in seats)
        )
        await self.challenger.send(court.close_commits(1))
        await self.pass_time(2)
        await asyncio.gather(
            *(owner.sender.send(court.reveal_vote(1, round_, seat, verdict, 0, SALT)) for seat, owner in seats)
        )
        return len(jury)

    async def mine(self, blocks: int) -> None:
        await self.chain.rpc.request("anvil_mine", hex(blocks))
        await self.chain.clock.refresh()

    async def pass_time(self, seconds: int) -> None:
        await self.chain.rpc.request("evm_increaseTime", hex(seconds))
        await self.mine(1)

    def defence(self, sender: TxSender) -> Defence:
        """A node of the accused, as after a start."""
        owner = self.accused.address
        view = ChainDefence(self.chain, sender, owner, ChainCourt(self.chain, sender, owner))
        return Defence(view, Innocent(), self.chain.clock, Budget(750 * RUSD, 3_000 * RUSD))

    async def stake(self) -> int:
        return await self.chain.staking.slashable(self.accused.address, Role.OPERATOR)


@pytest.fixture
def deployment(anvil: RunningAnvil) -> Deployment:
    """Contracts of this test's own, so that nobody else's operators are drawn."""
    pair = Catalogue([Model(to_hex(MODEL_ID), 200, "a model", "")], [Profile(to_hex(PROFILE_ID), "")])
    return Deployment.from_json(deploy(anvil.url, ANVIL_KEY, catalogue=pair))


async def begun(chain: Chain) -> Trial:
    """A first jury of three has said mismatch of an honest owner."""
    accused, *others = await asyncio.gather(
        *(operator(chain, name) for name in ("accused", *(f"juror {n}" for n in range(OTHERS))))
    )
    challenger = await funded(chain, SigningKey(keccak(b"defence challenger")), 500 * RUSD)
    trial = Trial(chain, accused, {each.address: each for each in others}, challenger)
    await trial.open()
    assert await trial.vote(0, VerdictKind.MISMATCH) == 3
    await challenger.send(chain.court.decide(1))
    return trial


async def test_a_node_appeals_for_its_owner_and_a_larger_jury_clears_it(
    anvil: RunningAnvil, deployment: Deployment
) -> None:
    async with Chain(anvil.url, deployment) as chain:
        trial = await begun(chain)
        key, asset = trial.accused.node, chain.asset
        sender = await funded(chain, key, 0)
        with pytest.raises(PaymentRequired, match=r"send it 101\.00 rUSD by"):
            await trial.defence(sender).step()
        await sender.send(asset.call("faucet", key.address, 400 * RUSD))

        await trial.defence(sender).step()
        assert await asset.balance_of(key.address) == 400 * RUSD - COST
        case = await chain.court.case_of(1)
        assert (case.status, case.round, case.appeals) == (CaseStatus.DRAWING, 1, 1)
        assert (await chain.court.appeals_of(1, 1))[0].appellant == key.address

        # A restart, and the owner's other node that comes a moment later, appeal nothing again.
        again = trial.defence(sender)
        await again.step()
        assert again.appeals == 0
        with pytest.raises(TransactionFailed, match="CourtWrongStatus"):
            await sender.send(chain.court.appeal(1))

        # The challenger leaves the case alone: the accused draws, decides and ends it, each step for a tip.
        await trial.mine(10)
        await again.step()
        assert await trial.vote(1, VerdictKind.MATCH) == 7
        await again.step()
        assert (await chain.court.case_of(1)).verdict == VerdictKind.MATCH
        await trial.pass_time(DAY + 60)
        await again.step()
        assert (await chain.court.case_of(1)).status == CaseStatus.CLOSED
        await again.step()
        assert again.open_cases == []
        assert await asset.balance_of(key.address) == 400 * RUSD - FEE - 2 * TIP + 3 * TIP
        assert await chain.court.credit(key.address) == 0
        assert await trial.stake() == STAKE
        # Half of the bond of whoever accused it falsely.
        assert await chain.court.credit(trial.accused.address) == 10 * RUSD


async def test_what_the_larger_jury_confirms_costs_the_appeal_and_the_stake(
    anvil: RunningAnvil, deployment: Deployment
) -> None:
    async with Chain(anvil.url, deployment) as chain:
        trial = await begun(chain)
        key = trial.accused.node
        # Enough for one appeal, and not for the second, which takes twice as much.
        sender = await funded(chain, key, COST)
        accused = trial.defence(sender)
        await accused.step()
        await trial.mine(10)
        await accused.step()
        await trial.vote(1, VerdictKind.MISMATCH)
        await accused.step()
        with pytest.raises(PaymentRequired, match=r"send it 201\.00 rUSD by"):
            await accused.step()
        assert accused.lost_cases == 1
        await trial.pass_time(DAY + 60)
        await accused.step()
        assert "the time for it ended" in accused.open_cases[0]["state"]
        await trial.challenger.send(chain.court.execute(1, SHOWN))
        await accused.step()
        assert await trial.stake() == STAKE // 2 - SHOWN[0].fee
        # The bond is lost with the verdict that it stood for; of the tips it has those of the steps it took.
        assert await chain.asset.balance_of(key.address) == 2 * TIP


async def test_an_appeal_that_a_stranger_pays_uses_up_nothing_of_the_owners(
    anvil: RunningAnvil, deployment: Deployment
) -> None:
    async with Chain(anvil.url, deployment) as chain:
        trial = await begun(chain)
        stranger = await funded(chain, SigningKey(keccak(b"defence stranger")), 400 * RUSD)
        await stranger.send(chain.asset.approve(chain.court.address, COST))
        await stranger.send(chain.court.appeal(1))
        own = await funded(chain, trial.accused.node, 0)
        owner = trial.accused.address
        spent = [
            (await ChainDefence(chain, sender, owner, ChainCourt(chain, sender, owner)).price(1)).spent_in_epoch
            for sender in (own, stranger)
        ]
        assert spent == [0, COST]
