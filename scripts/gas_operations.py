"""The operations whose gas is measured: each is done on a real chain and returns what its receipt says it used."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from tests.contracts.court.cases import Case, open_case, opening
from tests.contracts.court.ledger import Ledger
from tests.contracts.court.proofs import Claimant
from tests.contracts.court.transcripts import Tree
from tests.contracts.court.world import MATCH
from tests.contracts.court.world import World as CourtWorld
from tests.contracts.world import DOLLAR, OPERATOR, Collection, World
from web3 import HTTPProvider, Web3

from gas_trace import Row, in_mapping, storage_layout, take_apart
from retally.devnet.ports import free_port
from retally.devnet.tools import anvil_path
from retally.protocol.eip712 import SigningKey
from retally.protocol.encoding import Bytes32, address_bytes, keccak

JOBS = 1_000
MOST = 2**256 - 1


@dataclass(frozen=True)
class Measured:
    """Gas of one operation, each where it does many, and what it was spent on where that was taken apart."""

    gas: int
    rows: Sequence[Row] = ()


@contextmanager
def chain() -> Iterator[str]:
    """A chain of today's rules that mines each transaction at once."""
    port = free_port()
    place = ["--host", "127.0.0.1", "--port", str(port), "--quiet", "--steps-tracing", "--auto-impersonate"]
    rules = ["--base-fee", "0", "--gas-price", "0", "--gas-limit", "60000000"]
    with subprocess.Popen([str(anvil_path()), *place, *rules]) as process:
        try:
            url = f"http://127.0.0.1:{port}"
            web3 = Web3(HTTPProvider(url))
            deadline = time.monotonic() + 20
            while not web3.is_connected():
                if time.monotonic() > deadline:
                    raise TimeoutError("anvil did not answer")
                time.sleep(0.02)
            yield url
        finally:
            process.terminate()


def money(url: str) -> dict[str, Measured]:
    """Collecting, deposits and stakes."""
    world = World(url)
    owner = world.operator()
    node = world.node(owner)
    first, again = _collects(world, node, [(world.payer(), None, 0)])
    found = {
        "collect one channel": _taken_apart(world, owner, node, again, 1),
        "collect one channel, first time": Measured(first.receipt["gasUsed"]),
    }
    for name, count, payers, session in (
        ("batch of 10 from 10 payers, each", 10, 10, False),
        ("batch of 10 from one payer and signer, each", 10, 1, True),
        ("batch of 100 from one payer and session signer, each", 100, 1, True),
        ("batch of 100 from one payer signing itself, each", 100, 1, False),
        ("batch of 100 from 100 payers, each", 100, 100, False),
    ):
        parties = [
            (payer, world.signer(payer) if session else None) for payer in [world.payer() for _ in range(payers)]
        ]
        lines = [(*parties[i % payers], i // payers) for i in range(count)]
        _, again = _collects(world, node, lines)
        found[name] = _taken_apart(world, owner, node, again, count)
    return found | _deposits(world)


def court(url: str) -> dict[str, Measured]:
    """Proofs, cases and votes."""
    world = CourtWorld(Ledger(url))
    claimant = Claimant(world)
    job = world.job()
    proven = claimant.proves(claimant.conflict(job, job.changed(output_root=Bytes32(keccak(b"other")))))
    found = {
        "proof of conflicting receipts": Measured(proven.proof_gas),
        "punishment of proven receipts": Measured(proven.punish_gas),
    }
    # The court holds money and has counted a case; the accused of the one measured has none yet, and fresh locks.
    case = open_case(world, shown=1)
    ledger, challenger = world.ledger, world.verifiers[1]
    court = ledger.court.functions
    ledger.send(ledger.asset.functions.approve(ledger.court.address, court.openingCost().call()), challenger)
    ledger.send(opening(world, case.shown, owner=world.owners[3]), challenger)
    found["case open"] = Measured(_latest_gas(world))
    return found | _votes(world, case)


def settled_jobs(url: str) -> dict[str, Measured]:
    """A thousand jobs of one payer in one transaction, after a collect of the same channel."""
    world = CourtWorld(Ledger(url))
    world.collect(Tree.of(world.jobs(2)))
    world.collect(Tree.of(world.jobs(JOBS)))
    gas = _latest_gas(world)
    return {f"{JOBS:,} jobs of one payer in one transaction, each": Measured(gas // JOBS)}


def _collects(
    world: World, node: SigningKey, lines: Sequence[tuple[SigningKey, SigningKey | None, int]]
) -> tuple[Collection, Collection]:
    """Two collects of the same channels: the second finds no slot empty but the commit's."""
    done = [
        world.collect(
            node, *[world.item(payer, node, amount, signer=signer, lane=lane) for payer, signer, lane in lines]
        )
        for amount in (10_000, 20_000)
    ]
    if done[1].paid != 10_000 * len(lines):
        raise RuntimeError(f"{done[1].skipped} of {len(lines)} items were skipped")
    return done[0], done[1]


def _deposits(world: World) -> dict[str, Measured]:
    payer = world.party()
    deposit, stake = world.escrow.functions.deposit, world.staking.functions.stake
    approve = world.asset.functions.approve

    def used() -> Measured:
        return Measured(world.send(payer, deposit(payer.address, DOLLAR))["gasUsed"])

    found = {"deposit, new account": used(), "deposit top-up, part of the allowance": used()}
    world.send(payer, approve(world.escrow.address, DOLLAR))
    found["deposit top-up, allowance for it alone"] = used()
    world.send(payer, approve(world.escrow.address, MOST))
    found["deposit top-up, unlimited allowance"] = used()
    found["stake"] = Measured(world.send(payer, stake(OPERATOR, 1_000 * DOLLAR))["gasUsed"])
    return found


def _votes(world: CourtWorld, case: Case) -> dict[str, Measured]:
    """The dearest of the jury's: all commit, then all reveal."""
    jurors = case.draw()
    web3 = world.ledger.web3
    before = web3.eth.block_number
    world.vote(case.id, 0, dict.fromkeys(jurors, MATCH))
    used = [int(web3.eth.get_block(number)["gasUsed"]) for number in range(before + 1, web3.eth.block_number + 1)]
    sent = [gas for gas in used if gas]
    commits, reveals = sent[: len(jurors)], sent[-len(jurors) :]
    return {"vote commit": Measured(max(commits)), "vote reveal": Measured(max(reveals))}


def _latest_gas(world: CourtWorld) -> int:
    return int(world.ledger.web3.eth.get_block("latest")["gasUsed"])


def _taken_apart(world: World, owner: SigningKey, node: SigningKey, done: Collection, count: int) -> Measured:
    """The gas of an item, and what the whole collect was spent on."""
    tx_hash = bytes(done.receipt["transactionHash"])
    rows = take_apart(world, tx_hash, _labels(owner, node, done))
    return Measured(-(-int(done.receipt["gasUsed"]) // count), rows)


def _labels(owner: SigningKey, node: SigningKey, done: Collection) -> dict[tuple[str, int], str]:
    """What lies in the slots that a collect may touch."""
    escrow, registry, staking = (storage_layout(name) for name in ("Escrow", "Registry", "Staking"))
    labels = {
        ("Escrow", in_mapping(escrow["_incomes"], owner.address)): "owner's credit and payments of this half window",
        ("Escrow", in_mapping(escrow["_earlier"], owner.address)): "owner's payments of the half windows before",
        ("Escrow", escrow["auditPool"]): "audit pool and count of commits",
        ("Escrow", in_mapping(escrow["commitWord"], int(done.commit["commitId"]))): "the commit's word",
        ("Registry", in_mapping(registry["_nodes"], node.address)): "node's owner and unit",
        ("Registry", in_mapping(registry["_nodes"], node.address) + 1): "node's times",
        ("Registry", in_mapping(registry["_owners"], owner.address)): "owner's audit level",
        (
            "Registry",
            in_mapping(registry["_delegates"], owner.address, node.address),
        ): "whether the caller is a delegate",
        ("Staking", in_mapping(staking["_stakes"], owner.address, OPERATOR)): "owner's stake",
        ("Staking", in_mapping(staking["_locks"], owner.address, OPERATOR)): "what cases lock of it",
    }
    packed = bytes(done.commit["ranges"])
    for start in range(0, len(packed), 68):
        payer, signer = packed[start : start + 20], packed[start + 20 : start + 40]
        key = keccak(payer + signer + address_bytes(node.address) + packed[start + 40 : start + 44])
        labels["Escrow", in_mapping(escrow["_channels"], bytes(key))] = "channels"
        labels["Escrow", in_mapping(escrow["_accounts"], payer.hex())] = "payers' accounts"
        labels["Escrow", in_mapping(escrow["_signers"], payer.hex(), signer.hex())] = "session signers"
    return labels
