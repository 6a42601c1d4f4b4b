"""Stories of ways out: a pause keeps nobody in, an account that the asset refuses keeps nobody else in."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from web3.contract.contract import ContractFunction

from compile_contracts import Artifact
from tests.contracts.court.cases import BOND, FEE, SEVERITY, TIP, Case, open_case, opening
from tests.contracts.court.challenges import SLASHED, challenge
from tests.contracts.court.ledger import BURN, DAY, OPERATOR, ROUTER, VERIFIER
from tests.contracts.court.test_audits import commitment, drawn_verifier, verdicts_of
from tests.contracts.court.transcripts import Tree
from tests.contracts.court.wealth import wealth
from tests.contracts.court.world import MISMATCH, SALT, STAKE, Commit, World


def pause_all(world: World, seconds: int) -> None:
    """Pause whatever can be paused."""
    for contract in (world.ledger.staking, world.ledger.escrow, world.ledger.court):
        call = contract.functions.pause(world.ledger.now() + seconds)
        world.ledger.send(call, contract.functions.guardian().call())


def withdraw_credits(world: World, *people: str) -> None:
    """Everybody takes what it is owed, wherever it is owed."""
    ledger = world.ledger
    for who in people:
        for contract in (ledger.staking, ledger.escrow, ledger.silence, ledger.court):
            if contract.functions.credit(who).call():
                ledger.send(contract.functions.withdrawCredit(), who)


def thaw_all(world: World) -> None:
    """Operators, verifiers and the router want out."""
    staking = world.ledger.staking.functions
    stakes = [(who, OPERATOR) for who in world.owners] + [(who, VERIFIER) for who in world.verifiers]
    for who, role in [*stakes, (world.router.address, ROUTER)]:
        world.ledger.send(staking.thaw(role, staking.slashable(who, role).call()), who)


class TestPausedSystem:
    """A paused system lets everyone out."""

    def test_lets_every_party_out_to_the_last_unit(self, world: World) -> None:
        ledger = world.ledger
        people = [*world.owners, *world.verifiers, world.payer.address, world.friend.address]
        people += [world.router.address, world.outsider]
        start = wealth(world, *people)
        case = open_case(world)
        silent = challenge(world, world.committed(6))
        commit = self._audit_begun(world)
        # The stakes thaw while all works, and the pause begins days before they may leave.
        case.draw()
        world.vote(case.id, 0, dict.fromkeys(case.jurors(), MISMATCH))
        thaw_all(world)
        ledger.jump(9 * DAY)
        pause_all(world, 13 * DAY)
        for call, who in (
            (ledger.staking.functions.stake(OPERATOR, 1), world.cheat),
            (ledger.escrow.functions.deposit(world.payer.address, 1), world.payer.address),
            (opening(world, case.shown), world.challenger),
        ):
            ledger.reverts("PauseInForce", call, who)
        # What had begun goes on to its end: the case, the challenge, the audit, and new exits begin.
        for payer in (world.payer.address, world.friend.address):
            balance = ledger.escrow.functions.account(payer).call()[0]
            ledger.send(ledger.escrow.functions.thaw(balance), payer)
        assert case.decide() == MISMATCH
        assert case.execute()["slashed"] > 0
        ledger.send(ledger.silence.functions.timeout(silent.id), world.outsider)
        assert silent.status == SLASHED
        ledger.send(self._reveal(world, commit), drawn_verifier(world, commit))
        ledger.jump(10 * DAY)
        self._leave(world, people)
        for contract in (ledger.court, ledger.silence, ledger.staking):
            assert ledger.balance(contract.address) == 0
        assert ledger.balance(ledger.escrow.address) == ledger.escrow.functions.auditPool().call()
        # Whatever anybody had is in its own hands, in the audit pool, or burned by the two slashes.
        everything = sum(ledger.balance(who) for who in people)
        assert everything + ledger.balance(ledger.escrow.address) + ledger.balance(BURN) == start
        for contract in (ledger.staking, ledger.escrow, ledger.court):
            assert contract.functions.isPaused().call()

    def _audit_begun(self, world: World) -> Commit:
        commit = world.committed(3)
        verifier = drawn_verifier(world, commit)
        bound = commitment(commit, verifier, verdicts_of(len(world.points(commit))))
        world.ledger.send(world.ledger.audits.functions.commitVerdicts(commit.record.id, bound), verifier)
        return commit

    def _reveal(self, world: World, commit: Commit) -> ContractFunction:
        verdicts = verdicts_of(len(world.points(commit)))
        return world.ledger.audits.functions.revealVerdicts(commit.abi, commit.packed, verdicts, SALT)

    def _leave(self, world: World, people: Sequence[str]) -> None:
        ledger = world.ledger
        staking, escrow = ledger.staking.functions, ledger.escrow.functions
        for who in people:
            for role in (OPERATOR, ROUTER, VERIFIER):
                if staking.stakeOf(who, role).call()[1]:
                    ledger.send(staking.withdraw(role), who)
            if escrow.account(who).call()[1]:
                ledger.send(escrow.withdraw(), who)
        withdraw_credits(world, *people)


class TestBlacklisting:
    """A blacklisted victim blocks nobody: the asset refuses it, the case and everybody else go on."""

    def test_of_a_victim_its_case_ends_and_pays_all_the_others(
        self, world: World, test_contracts: Mapping[str, Artifact]
    ) -> None:
        self._make_picky(world, test_contracts)
        commit = world.collect(
            Tree.of([*world.jobs(2), world.job(payer=world.friend)]), payers=(world.payer, world.friend)
        )
        world.fix_seed(commit)
        entries = [(commit.record.id, job.digest, job.receipt.payer, job.receipt.fee) for job in commit.tree.jobs]
        mined = world.ledger.send(opening(world, entries), world.challenger)
        case = Case(world, mined.event("CaseOpened")["caseId"], list(commit.tree.jobs), entries)
        victim, other = world.payer.address, world.friend.address
        fees = {who: sum(entry[3] for entry in entries if entry[2] == who) for who in (victim, other)}
        self._refuse(world, victim, True)
        event = case.judged(MISMATCH)
        assert (event["slashed"], event["refunded"]) == (SEVERITY, sum(fees.values()))
        before = {who: world.ledger.balance(who) for who in (victim, other, world.challenger)}
        withdraw_credits(world, other, world.challenger, *case.jurors())
        assert world.ledger.balance(other) - before[other] == fees[other] > 0
        earned = SEVERITY // 5 + FEE + BOND + 4 * TIP
        assert world.ledger.balance(world.challenger) - before[world.challenger] == earned
        # The victim's own money waits for it, and for nobody else.
        self._refuse(world, victim, False)
        withdraw_credits(world, victim)
        assert world.ledger.balance(victim) - before[victim] == fees[victim] > 0

    def test_of_accused_and_challenger_saves_neither(
        self, world: World, test_contracts: Mapping[str, Artifact]
    ) -> None:
        self._make_picky(world, test_contracts)
        case = open_case(world)
        for who in (world.cheat, world.challenger):
            self._refuse(world, who, True)
        fees = sum(entry[3] for entry in case.shown)
        assert case.judged(MISMATCH)["slashed"] == SEVERITY
        assert world.ledger.staking.functions.slashable(world.cheat, OPERATOR).call() == STAKE - SEVERITY - fees
        before = world.ledger.balance(world.payer.address)
        withdraw_credits(world, world.payer.address, *case.jurors())
        assert world.ledger.balance(world.payer.address) - before == fees

    def _make_picky(self, world: World, test_contracts: Mapping[str, Artifact]) -> None:
        """Give the asset, whose balances stay, the code of one that can refuse an account."""
        made = test_contracts["PickyAsset"]
        picky = world.ledger.deploy(made.abi, made.bytecode)
        code = world.ledger.web3.eth.get_code(picky.address)
        world.ledger.rpc("anvil_setCode", world.ledger.asset.address, "0x" + bytes(code).hex())
        self.asset = world.ledger.web3.eth.contract(address=world.ledger.asset.address, abi=made.abi)

    def _refuse(self, world: World, who: str, refused: bool) -> None:
        world.ledger.send(self.asset.functions.refuse(who, refused), world.outsider)
