"""Payers that are contracts: one channel at a time by ERC-1271, batches by session signers."""

from __future__ import annotations

from collections.abc import Mapping

import pytest
from web3.contract import Contract
from web3.contract.contract import ContractFunction

from compile_contracts import Artifact
from retally.chain.connection import Chain
from retally.chain.deployment import Deployment
from retally.chain.transactions import TxSender
from retally.protocol.eip712 import SigningKey
from retally.protocol.encoding import Address
from retally.protocol.voucher import SignerAuth, Voucher
from tests.contracts.world import DAY, DOLLAR, ROOT, Item, World

BAD_SIGNATURE, UNKNOWN_SIGNER, SIGNER_EXPIRED, NOTHING_DUE = range(4)
WORD = b"signed by a committee of 3 of 5"


@pytest.fixture
def node(world: World) -> SigningKey:
    return world.node(world.operator())


@pytest.fixture
def contract(world: World, test_contracts: Mapping[str, Artifact]) -> Contract:
    """A contract with a deposit."""
    made = world.create_test(test_contracts["ContractPayer"])
    world.send(world.party(), world.escrow.functions.deposit(made.address, DOLLAR))
    return made


def collect_one(
    world: World, voucher: Voucher, signature: bytes, *, covered: int | None = None, root: bytes = ROOT
) -> ContractFunction:
    """A collect of one voucher."""
    what = (voucher.payer, voucher.signer, voucher.node, voucher.lane, voucher.cumulative)
    return world.escrow.functions.collectOne(what, voucher.cumulative if covered is None else covered, signature, root)


def outcome(world: World, node: SigningKey, call: ContractFunction) -> tuple[int, list[int]]:
    """What a collect paid, and why it did not."""
    receipt = world.send(node, call)
    commits = world.events(world.escrow, "Collected", receipt)
    skipped = world.events(world.escrow, "ItemSkipped", receipt)
    return sum(commit["paid"] for commit in commits), [item["reason"] for item in skipped]


class TestCollectOne:
    def test_pays_what_a_contract_signed(self, world: World, node: SigningKey, contract: Contract) -> None:
        voucher = Voucher(Address(contract.address), Address(contract.address), node.address, 0, 300)
        call = collect_one(world, voucher, WORD, covered=200)
        assert outcome(world, node, call) == (0, [BAD_SIGNATURE])
        world.send(node, contract.functions.sign(voucher.digest(world.domain), WORD))
        assert outcome(world, node, call) == (200, [])
        assert outcome(world, node, call) == (0, [NOTHING_DUE])
        assert outcome(world, node, collect_one(world, voucher, WORD)) == (100, [])
        assert world.escrow.functions.account(contract.address).call()[0] == DOLLAR - 300

    def test_pays_what_a_key_signed_as_a_batch_does(self, world: World, node: SigningKey) -> None:
        payer = world.payer(50)
        signer = world.signer(payer, cap=30)
        own, session = world.item(payer, node, 40), world.item(payer, node, 40, signer=signer)
        assert outcome(world, node, collect_one(world, session.voucher, session.signature)) == (30, [])
        assert world.escrow.functions.signer(payer.address, signer.address).call()[1] == 30
        assert outcome(world, node, collect_one(world, own.voucher, session.signature)) == (0, [BAD_SIGNATURE])
        assert outcome(world, node, collect_one(world, own.voucher, own.signature[:63])) == (0, [BAD_SIGNATURE])
        assert outcome(world, node, collect_one(world, own.voucher, own.signature)) == (20, [])
        world.jump(40 * DAY)
        late = world.item(payer, node, 50, signer=signer)
        assert outcome(world, node, collect_one(world, late.voucher, late.signature)) == (0, [SIGNER_EXPIRED])

    def test_takes_reserved_money_first(self, world: World, node: SigningKey) -> None:
        payer = world.payer(100)
        world.send(node, world.reserve_call(payer, node, 40))
        item = world.item(payer, node, 50)
        assert outcome(world, node, collect_one(world, item.voucher, item.signature)) == (50, [])
        assert world.account(payer) == (50, 0, 0, 0)

    def test_lets_no_contract_sign_for_another_payer(self, world: World, node: SigningKey, contract: Contract) -> None:
        payer = world.payer(100)
        voucher = Voucher(payer.address, Address(contract.address), node.address, 0, 10)
        world.send(node, contract.functions.sign(voucher.digest(world.domain), WORD))
        assert outcome(world, node, collect_one(world, voucher, WORD)) == (0, [UNKNOWN_SIGNER])

    def test_lets_nobody_sign_for_nobody(self, world: World, node: SigningKey) -> None:
        zero = Address("0x" + "00" * 20)
        voucher = Voucher(zero, zero, node.address, 0, 10)
        assert outcome(world, node, collect_one(world, voucher, bytes(64))) == (0, [UNKNOWN_SIGNER])
        item = Item(voucher, bytes(64), 10)
        assert world.collect(node, item).skipped == [(0, UNKNOWN_SIGNER)]

    def test_reverts_as_a_batch_does(self, world: World, node: SigningKey) -> None:
        item = world.item(world.payer(), node, 10)
        with world.reverts("EscrowZeroRoot"):
            world.send(node, collect_one(world, item.voucher, item.signature, root=bytes(32)))
        with world.reverts("EscrowNotCollector"):
            world.send(world.party(), collect_one(world, item.voucher, item.signature))
        stranger = world.party()
        foreign = world.item(world.payer(), stranger, 10)
        with world.reverts("EscrowUnknownNode"):
            world.send(stranger, collect_one(world, foreign.voucher, foreign.signature))


class TestClient:
    async def test_collects_what_a_contract_signed(self, world: World, contract: Contract) -> None:
        owner = world.operator()
        node = world.node(owner)
        voucher = Voucher(Address(contract.address), Address(contract.address), node.address, 0, 300)
        world.send(owner, contract.functions.sign(voucher.digest(world.domain), WORD))
        async with Chain(world.url, Deployment.from_json(world.deployment)) as chain:
            await TxSender(chain, owner).send(chain.escrow.collect_one(voucher, 300, WORD, ROOT))
            assert await chain.escrow.channel(voucher.channel) == 300


class TestBatch:
    def test_takes_no_contracts_own_word(self, world: World, node: SigningKey, contract: Contract) -> None:
        voucher = Voucher(Address(contract.address), Address(contract.address), node.address, 0, 300)
        signature = bytes(64)
        world.send(node, contract.functions.sign(voucher.digest(world.domain), signature))
        assert world.collect(node, Item(voucher, signature, 300)).skipped == [(0, BAD_SIGNATURE)]

    def test_takes_the_word_of_its_session_signer(self, world: World, node: SigningKey, contract: Contract) -> None:
        signer, until = SigningKey.generate(), world.now + 3600
        auth = SignerAuth(Address(contract.address), signer.address, 500, world.now + 30 * DAY, until)
        r, vs = world.sign(signer, auth)
        data = world.escrow.encode_abi("authorizeSigner", args=[signer.address, 500, auth.expiry, until, r, vs])
        world.send(node, contract.functions.act(world.escrow.address, data))
        voucher = Voucher(Address(contract.address), signer.address, node.address, 0, 300)
        assert world.collect(node, Item(voucher, signer.sign(voucher.digest(world.domain)), 300)).paid == 300
