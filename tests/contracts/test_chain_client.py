"""The chain package against real contracts: wrappers, the sender, events, the clock."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from eth_abi.abi import encode

from retally.chain.abi import CONTRACTS, load_abi
from retally.chain.audits import PointVerdict, pack_verdicts, unpack_verdicts, verdicts_hash
from retally.chain.calibrations import Calibrations
from retally.chain.clock import ChainClock
from retally.chain.connection import Chain
from retally.chain.court import decode_shown, vote_hash
from retally.chain.deployment import Deployment
from retally.chain.escrow import CollectItem
from retally.chain.events import EventReader, collected_of
from retally.chain.rpc import Rpc
from retally.chain.staking import Offence, Role
from retally.chain.transactions import TxSender, _Pending
from retally.errors import BadRequest, ChainUnreachable, NotFound, TransactionFailed
from retally.protocol.calibration import Calibration, MarginTable
from retally.protocol.case import Shown
from retally.protocol.eip712 import SigningKey
from retally.protocol.encoding import ZERO_ADDRESS, keccak
from retally.protocol.voucher import ChannelId, SignerAuth, Voucher
from tests.contracts.world import DAY, DOLLAR, MODEL, OTHER_PROFILE, PROFILE, World


@pytest.fixture
async def chain(world: World) -> AsyncIterator[Chain]:
    """Our client on the tests' chain."""
    async with Chain(world.url, Deployment.from_json(world.deployment)) as opened:
        yield opened


class TestDeployment:
    def test_survives_the_round_trip(self, world: World, tmp_path: Path) -> None:
        path = tmp_path / "deployment.json"
        path.write_text(json.dumps(world.deployment))
        loaded = Deployment.load(path)
        assert loaded.domain.escrow == world.at["Escrow"]
        assert Deployment.from_json(loaded.to_json()) == loaded

    def test_names_what_is_missing(self, tmp_path: Path) -> None:
        with pytest.raises(NotFound):
            Deployment.load(tmp_path / "none.json")
        with pytest.raises(BadRequest):
            Deployment(1, 0, {}).address("Escrow")

    async def test_refuses_another_chain(self, world: World) -> None:
        wrong = Deployment.from_json({**world.deployment, "chainId": 1})
        chain = Chain(world.url, wrong)
        with pytest.raises(BadRequest):
            await chain.start()
        await chain.close()


class TestRpc:
    async def test_says_when_the_chain_is_away(self) -> None:
        rpc = Rpc("http://127.0.0.1:9")
        with pytest.raises(ChainUnreachable):
            await rpc.request("eth_blockNumber")
        with pytest.raises(ChainUnreachable):
            ChainClock(rpc).now()
        await rpc.close()

    @pytest.mark.parametrize("name", CONTRACTS)
    def test_every_abi_is_there(self, name: str) -> None:
        assert load_abi(name).functions


class TestViews:
    async def test_reads_money(self, world: World, chain: Chain) -> None:
        payer, owner = world.payer(9 * DOLLAR), world.operator(2_000 * DOLLAR)
        assert (await chain.escrow.account(payer.address)).balance == 9 * DOLLAR
        assert (await chain.staking.stake_of(owner.address, Role.OPERATOR)).bonded == 2_000 * DOLLAR
        assert await chain.staking.owners(Role.VERIFIER) == ()
        assert await chain.staking.severity_of(owner.address, Role.OPERATOR, Offence.MISMATCH) > 0
        assert (await chain.escrow.signer(payer.address, owner.address)).expiry == 0
        assert (await chain.escrow.reservation(payer.address, ZERO_ADDRESS, owner.address)).granted == 0
        assert await chain.court.opening_cost() > 0
        assert await chain.silence.challenge_bond() > 0
        assert (await chain.court.case_of(1)).status == 0
        assert (await chain.audits.duty_of(1)).drawn == ZERO_ADDRESS

    async def test_reads_nodes(self, world: World, chain: Chain) -> None:
        owner = world.operator()
        node = world.node(owner)
        stranger = SigningKey.generate().address
        known, unknown = await chain.registry.nodes([node.address, stranger])
        assert (known.owner, known.model_id, known.profile_id, known.is_live) == (owner.address, MODEL, PROFILE, True)
        assert not unknown.is_live
        assert await chain.registry.is_delegate(owner.address, node.address)
        assert (await chain.registry.audit_level(owner.address)).share_ppm == 300_000


class TestCalibrations:
    async def test_judge_only_what_was_committed_once_they_held(
        self, world: World, chain: Chain, tmp_path: Path
    ) -> None:
        table = MarginTable(edges=(1, 1_000_000), honest=(10**9, 10**6, 10**5), cheat=(10**8, 10**8, 10**8))
        made = Calibration(MODEL, PROFILE, PROFILE, {"seeded": table}, {"temperature": (1, 2_000_000)})
        (tmp_path / "made.json").write_text(json.dumps(made.to_json()))
        calibrations = Calibrations(chain.registry)
        assert calibrations.load(tmp_path) == 1
        assert await calibrations.find(MODEL, PROFILE, PROFILE, world.now) is None
        world.node(world.operator())
        world.rpc("anvil_setBalance", world.timelock.address, hex(10**20))
        add = world.registry.functions.addCalibration(made.hash, MODEL, PROFILE, PROFILE, "")
        world.send(world.timelock.address, add)
        from_ = world.now + 28 * DAY
        world.jump(60 * DAY)
        assert await calibrations.find(MODEL, PROFILE, PROFILE, from_ - 1) is None
        assert await calibrations.find(MODEL, PROFILE, PROFILE, from_) == made
        assert await calibrations.find(MODEL, PROFILE, OTHER_PROFILE, from_) is None


class TestTxSender:
    async def test_sends_and_decodes_errors(self, world: World, chain: Chain, tmp_path: Path) -> None:
        payer = world.payer(9 * DOLLAR)
        store = tmp_path / "pending.json"
        sender = TxSender(chain, payer, store)
        mined = await sender.send(chain.escrow.thaw(4 * DOLLAR))
        assert mined.gas_used > 21_000
        assert (await chain.escrow.account(payer.address)).thawing == 4 * DOLLAR
        with pytest.raises(TransactionFailed) as caught:
            await sender.send(chain.escrow.withdraw())
        assert caught.value.error_name == "EscrowStillThawing"
        assert set(caught.value.error_args) == {"time", "thawEnd"}
        assert not store.exists()

    async def test_sends_again_what_a_crash_left(self, world: World, chain: Chain, tmp_path: Path) -> None:
        payer = world.payer(9 * DOLLAR)
        store = tmp_path / "pending.json"
        first = TxSender(chain, payer, store)
        request = await first._prepare(chain.escrow.thaw(DOLLAR), 0)
        first._sign(_Pending(int(request["nonce"], 16), "Escrow.thaw", request, [], []))
        assert store.exists()
        await TxSender(chain, payer, store).send(chain.escrow.thaw(2 * DOLLAR))
        assert (await chain.escrow.account(payer.address)).thawing == 3 * DOLLAR
        assert not store.exists()

    async def test_finishes_what_was_cut_short_in_this_process_too(
        self, world: World, chain: Chain, tmp_path: Path
    ) -> None:
        payer = world.payer(9 * DOLLAR)
        sender = TxSender(chain, payer, tmp_path / "pending.json")
        await sender.send(chain.escrow.thaw(DOLLAR))
        request = await sender._prepare(chain.escrow.thaw(DOLLAR), 0)
        sender._sign(_Pending(int(request["nonce"], 16), "Escrow.thaw", request, [], []))
        await sender.resume()
        assert (await chain.escrow.account(payer.address)).thawing == 2 * DOLLAR
        assert not (tmp_path / "pending.json").exists()

    async def test_an_earlier_failure_is_not_that_of_the_next_call(
        self, world: World, chain: Chain, tmp_path: Path
    ) -> None:
        payer, thief, store = world.payer(9 * DOLLAR), world.party(), tmp_path / "pending.json"
        world.send(payer, world.asset.functions.approve(thief.address, 10**30))
        money = world.balance(payer)
        first = TxSender(chain, payer, store)
        request = await first._prepare(chain.asset.transfer(thief.address, money), 0)
        first._sign(_Pending(int(request["nonce"], 16), "DevAsset.transfer", request, [], []))
        world.send(thief, world.asset.functions.transferFrom(payer.address, thief.address, money))
        await TxSender(chain, payer, store).send(chain.escrow.thaw(DOLLAR))
        assert (await chain.escrow.account(payer.address)).thawing == DOLLAR
        assert not store.exists()

    async def test_authorises_signers(self, world: World, chain: Chain) -> None:
        payer, signer = world.payer(), SigningKey.generate()
        now = await chain.clock.refresh()
        auth = SignerAuth(payer.address, signer.address, 5 * DOLLAR, now + 10**6, now + 600)
        call = chain.escrow.authorize_signer(auth, signer.sign(auth.digest(chain.domain)))
        await TxSender(chain, payer).send(call)
        assert (await chain.escrow.signer(payer.address, signer.address)).cap == 5 * DOLLAR


class TestEvents:
    async def test_reads_commits_back(self, world: World, chain: Chain) -> None:
        payer, owner = world.payer(), world.operator()
        node = world.node(owner)
        voucher = Voucher(payer.address, payer.address, node.address, 4, 50_000)
        item = CollectItem(voucher, 50_000, payer.sign(voucher.digest(chain.domain)))
        mined = await TxSender(chain, owner).send(chain.escrow.collect(node.address, [item], keccak(b"root")))
        events = await EventReader(chain).read(mined.block, mined.block)
        (event,) = [event for event in events if event.name == "Collected"]
        found = collected_of(event)
        assert (found.paid, found.commit.owner, found.ranges[0].after) == (50_000, owner.address, 50_000)
        assert await chain.escrow.is_commit(found.commit)
        assert await chain.escrow.commit_word(found.commit.id) == found.commit.word()
        channel = ChannelId(payer.address, payer.address, node.address, 4)
        assert await chain.escrow.channels([channel, channel]) == [50_000, 50_000]

    async def test_reads_one_event_of_one_subject(self, world: World, chain: Chain) -> None:
        reader, start = EventReader(chain, ("Escrow", "Court")), await chain.block_number() + 1
        nodes = []
        for _ in range(2):
            payer, owner = world.payer(), world.operator()
            nodes.append(node := world.node(owner))
            voucher = Voucher(payer.address, payer.address, node.address, 4, 50_000)
            item = CollectItem(voucher, 50_000, payer.sign(voucher.digest(chain.domain)))
            await TxSender(chain, owner).send(chain.escrow.collect(node.address, [item], keccak(node.address.encode())))
        head = await chain.block_number()
        commits = [collected_of(event).commit for event in await reader.read_named("Collected", start, head)]
        assert [commit.node for commit in commits] == [node.address for node in nodes]
        for wanted in ({"node": nodes[1].address}, {"commitId": commits[1].id}, {"owner": commits[1].owner}):
            (event,) = await reader.read_named("Collected", start, head, **wanted)
            assert collected_of(event).commit == commits[1]
        assert await reader.read_named("Collected", start, head, node=nodes[0].address, owner=commits[1].owner) == []
        assert await reader.read_named("CaseOpened", start, head) == []

    async def test_refuses_a_filter_that_would_let_everything_through(self, chain: Chain) -> None:
        reader = EventReader(chain, ("Escrow",))
        with pytest.raises(KeyError, match="CaseOpened"):
            await reader.read_named("CaseOpened", 0, 0)
        with pytest.raises(KeyError, match="receiptsRoot"):
            await reader.read_named("Collected", 0, 0, receiptsRoot=bytes(32))

    async def test_follows_new_blocks(self, world: World, chain: Chain) -> None:
        payer = world.payer()
        follower = EventReader(chain, ("Escrow",)).follow(await chain.block_number() + 1, poll_seconds=0.01)
        world.send(payer, world.escrow.functions.thaw(DOLLAR))
        batch = await anext(follower)
        await follower.aclose()
        assert [event.name for event in batch.events] == ["ThawStarted"]
        assert batch.to_block == await chain.block_number()


class TestHashes:
    async def test_verdicts_are_packed_as_the_contract_unpacks_them(self) -> None:
        verdicts = (PointVerdict(1, -5), PointVerdict(2, 18_000_000))
        assert unpack_verdicts(pack_verdicts(verdicts)) == verdicts
        assert len(verdicts_hash(1, ZERO_ADDRESS, pack_verdicts(verdicts), bytes(32))) == 32

    async def test_votes_hash_what_the_court_hashes(self) -> None:
        assert vote_hash(1, 0, ZERO_ADDRESS, 2, -3, bytes(32)) != vote_hash(1, 0, ZERO_ADDRESS, 2, 3, bytes(32))
        assert decode_shown(bytes(31) + b"\x20" + bytes(32)) == ()

    async def test_shown_entries_are_read_as_they_were_given(self) -> None:
        shown = Shown(3, keccak(b"receipt"), SigningKey(keccak(b"payer")).address, 472)
        data = encode(["(uint64,bytes32,address,uint96)[]"], [[shown.to_abi()]])
        assert decode_shown(data) == (shown,)
