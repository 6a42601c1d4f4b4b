"""Parties with stakes, nodes and deposits on one ledger, and the moves that several tests share."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import count
from typing import Any

from eth_abi.abi import encode
from web3 import Web3

from retally.protocol.audit_points import AuditPoint, drawn_points
from retally.protocol.case import CommitRecord, unpack_ranges
from retally.protocol.eip712 import SigningKey
from retally.protocol.encoding import address_bytes, keccak, u32, u96
from retally.protocol.voucher import NodeAuth, Voucher
from tests.contracts.court.ledger import BURN, DAY, GOVERNOR, MILLION, OPERATOR, ROUTER, VERIFIER, Ledger, Mined
from tests.contracts.court.transcripts import MODEL, PROFILE, Job, Tree, make_job

STAKE = 1_000 * MILLION
BOND = 200 * MILLION
MATCH, MISMATCH, INCONCLUSIVE = 1, 2, 3
SALT = keccak(b"salt")


def key(name: str) -> SigningKey:
    """The key of a named party."""
    return SigningKey(keccak(name.encode()))


@dataclass(frozen=True, slots=True)
class Commit:
    """A commit of a node with the tree under its root."""

    record: CommitRecord
    packed: bytes
    tree: Tree

    @property
    def abi(self) -> tuple[Any, ...]:
        """The struct for a call."""
        return self.record.to_abi()


def record_of(event: Mapping[str, Any]) -> CommitRecord:
    """The commit of a Collected event."""
    return CommitRecord(
        event["commitId"], event["node"], event["owner"], event["receiptsRoot"], keccak(event["ranges"]),
        event["step"], event["sharePpm"], event["seedBlock"], event["time"],
    )  # fmt: skip


class World:
    """Four operators with a node each, two verifiers, a payer, and an outsider."""

    def __init__(self, ledger: Ledger, verifiers: int = 2) -> None:
        self.ledger = ledger
        self.payer = key("payer")
        self.friend = key("friend")
        self.outsider = key("outsider").address
        self.owners = [key(f"owner {i}").address for i in range(4)]
        self.nodes = [key(f"node {i}") for i in range(4)]
        self.verifier_keys = [key(f"verifier {i}") for i in range(verifiers)]
        self.verifiers = [each.address for each in self.verifier_keys]
        self.router = key("router")
        self._claims = count(1)
        self._set_up()

    @property
    def cheat(self) -> str:
        """The owner whose node the tests accuse."""
        return self.owners[0]

    @property
    def cheat_node(self) -> SigningKey:
        """That node's key."""
        return self.nodes[0]

    @property
    def challenger(self) -> str:
        """Who opens cases."""
        return self.verifiers[0]

    def job(self, node: int = 0, **options: Any) -> Job:
        """An honest job at a node."""
        payer = options.pop("payer", self.payer)
        return make_job(self.ledger.domain, self.nodes[node], payer, now=self.ledger.now(), **options)

    def jobs(self, amount: int, node: int = 0, **options: Any) -> list[Job]:
        """Honest jobs that follow each other, and what was collected before, on one channel."""
        payer = options.get("payer", self.payer).address
        channel = self.ledger.escrow.functions.channel(payer, payer, self.nodes[node].address, 0)
        upto = int(channel.call())
        made: list[Job] = []
        for _ in range(amount):
            made.append(self.job(node, cum_from=upto, **options))
            upto = made[-1].receipt.cum_to
        return made

    def collect(self, tree: Tree, upto: int | None = None, node: int = 0, payers: Sequence[SigningKey] = ()) -> Commit:
        """Collect what the tree's jobs of each payer come to, or `upto`, under its root."""
        totals: list[tuple[SigningKey, int]] = []
        for payer in payers or (self.payer,):
            receipts = [job.receipt for job in tree.jobs if job.receipt.payer == payer.address]
            totals.append((payer, upto if upto is not None else max(receipt.cum_to for receipt in receipts)))
        return self.collect_items(tree, totals, node)

    def collect_items(self, tree: Tree, totals: Sequence[tuple[SigningKey, int]], node: int = 0) -> Commit:
        """Collect one item for each total, of whoever signs for itself."""
        items = b""
        for payer, total in totals:
            voucher = Voucher(payer.address, payer.address, self.nodes[node].address, 0, total)
            signature = payer.sign(voucher.digest(self.ledger.domain))
            parties = address_bytes(payer.address) * 2
            items += parties + u32(0) + u96(total) + u96(total) + signature
        call = self.ledger.escrow.functions.collect(self.nodes[node].address, items, tree.root)
        event = self.ledger.send(call, self.owners[node]).event("Collected")
        return Commit(record_of(event), bytes(event["ranges"]), tree)

    def fix_seed(self, commit: Commit) -> bytes:
        """Fix the seed of a commit."""
        self.ledger.mine(6)
        call = self.ledger.audits.functions.fixSeed(commit.abi)
        return bytes(self.ledger.send(call, self.outsider).event("SeedFixed")["seed"])

    def points(self, commit: Commit) -> list[AuditPoint]:
        """The drawn points, as Python computes them."""
        seed = self.ledger.audits.functions.seedOf(commit.record.id).call()
        return drawn_points(seed, unpack_ranges(commit.packed), commit.record.node, commit.record.step)

    def committed(self, amount: int = 8, **options: Any) -> Commit:
        """A commit of honest jobs whose seed is fixed."""
        commit = self.collect(Tree.of(self.jobs(amount, **options)))
        self.fix_seed(commit)
        return commit

    def claim(self, claimant: str, evidence: bytes) -> bytes:
        """Commit to a claim and return its salt."""
        salt = keccak(b"claim %d" % next(self._claims))
        claimed = keccak(encode(["address", "bytes32", "bytes32"], [claimant, evidence, salt]))
        for faults in (self.ledger.tree_faults, self.ledger.faults):
            self.ledger.send(faults.functions.commitClaim(claimed), claimant)
        return salt

    def supply(self) -> dict[str, int]:
        """What the asset's total supply consists of, for a check that nothing is made or lost."""
        contracts = {contract.address for contract in self.ledger.contracts}
        people = {*self.owners, *self.verifiers, self.payer.address, self.friend.address, self.router.address}
        holders = contracts | people | {self.outsider, BURN}
        balances = {holder: self.ledger.balance(holder) for holder in holders}
        assert sum(balances.values()) == self.ledger.asset.functions.totalSupply().call()
        return balances

    def vote_hash(self, case: int, round_: int, juror: str, verdict: int, log_e: int = 0) -> bytes:
        """What a juror commits."""
        types = ["uint256", "uint16", "address", "uint8", "int64", "bytes32"]
        return keccak(encode(types, [case, round_, juror, verdict, log_e, SALT]))

    def vote(self, case: int, round_: int, votes: dict[str, int]) -> Mined | None:
        """Let jurors commit and reveal."""
        court = self.ledger.court.functions
        seats = {juror: seat for seat, juror in enumerate(court.jurorsOf(case, round_).call())}
        for juror, verdict in votes.items():
            hashed = self.vote_hash(case, round_, juror, verdict)
            self.ledger.send(court.commitVote(case, round_, seats[juror], hashed), juror)
        if len(votes) == len(seats):
            self.ledger.send(court.closeCommits(case), self.outsider)
        else:
            self.ledger.jump(DAY + 1)
        mined = None
        for juror, verdict in votes.items():
            mined = self.ledger.send(court.revealVote(case, round_, seats[juror], verdict, 0, SALT), juror)
        return mined

    def _set_up(self) -> None:
        ledger = self.ledger
        people = [*self.owners, *self.verifiers, self.payer.address, self.friend.address, self.router.address]
        for person in [*people, self.outsider]:
            ledger.send(ledger.asset.functions.faucet(person, 100_000 * MILLION), person)
            for spender in (ledger.staking, ledger.escrow, ledger.court, ledger.silence):
                ledger.send(ledger.asset.functions.approve(spender.address, 2**255), person)
        registry = ledger.registry.functions
        ledger.send(registry.addModel(MODEL, 200, "devnet", ""), GOVERNOR)
        ledger.send(registry.addProfile(PROFILE, ""), GOVERNOR)
        for owner, node in zip(self.owners, self.nodes, strict=True):
            self.add_operator(owner, node)
        for verifier in self.verifiers:
            ledger.send(ledger.staking.functions.stake(VERIFIER, BOND), verifier)
        ledger.send(ledger.staking.functions.stake(ROUTER, BOND), self.router.address)
        for payer in (self.payer, self.friend):
            ledger.send(ledger.escrow.functions.deposit(payer.address, 1_000 * MILLION), payer.address)

    def add_operator(self, owner: str, node: SigningKey, stake: int = STAKE) -> None:
        """Give an owner a stake and a node."""
        ledger = self.ledger
        ledger.send(ledger.staking.functions.stake(OPERATOR, stake), owner)
        deadline = ledger.now() + 600
        signature = node.sign(NodeAuth(owner, node.address, deadline).digest(ledger.domain))
        call = ledger.registry.functions.registerNode(
            node.address, MODEL, PROFILE, "http://node", deadline, signature[:32], signature[32:]
        )
        ledger.send(call, owner)
        ledger.send(ledger.registry.functions.setDelegate(node.address, True), owner)
        ledger.send(ledger.pools.functions.enlist(node.address), owner)


def operators(world: World, amount: int) -> list[str]:
    """More operators, for larger juries."""
    added = []
    for number in range(amount):
        owner = Web3.to_checksum_address(key(f"extra owner {number}").address)
        ledger = world.ledger
        ledger.send(ledger.asset.functions.faucet(owner, 10_000 * MILLION), owner)
        ledger.send(ledger.asset.functions.approve(ledger.staking.address, 2**255), owner)
        world.add_operator(owner, key(f"extra node {number}"))
        added.append(owner)
    world.owners.extend(added)
    return added
