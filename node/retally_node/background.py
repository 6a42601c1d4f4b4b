"""What a node does beside serving: collect, reserve, answer challenges, judge others and defend its owner."""

from __future__ import annotations

from dataclasses import dataclass

from retally.inference.chat_format import ChatFormat
from retally.inference.engine import Engine
from retally.protocol.eip712 import Domain, SigningKey
from retally_node.challenges import Challenges
from retally_node.channels import ChannelBook
from retally_node.defence import Budget, Defence
from retally_node.jury import Jury
from retally_node.ledger import Ledger
from retally_node.loops import Loops
from retally_node.node import Served
from retally_node.outside import Outside
from retally_node.own_evidence import AccusedScale
from retally_node.own_replayer import own_replayer
from retally_node.reservations import Reservations
from retally_node.settings import NodeSettings
from retally_node.settlement import Settlement
from retally_node.weigh_case import CaseScale
from retally_node.write_off import WriteOff


@dataclass(frozen=True, slots=True)
class Court:
    """What a node does where the court calls: as a juror, and as the accused."""

    jury: Jury
    defence: Defence

    @classmethod
    def of(
        cls,
        settings: NodeSettings,
        served: Served,
        ledger: Ledger,
        engine: Engine,
        chat_format: ChatFormat,
        domain: Domain,
        outside: Outside,
    ) -> Court:
        """Both on the node's own engine; raises BadRequest where the profile's file is not the registered one's."""
        own = own_replayer(settings, served, engine, chat_format)
        scale = CaseScale(outside.cases, own, domain)
        accused = AccusedScale(ledger, outside.cases, outside.evidence, scale, domain)
        budget = Budget(settings.appeal_budget, settings.appeal_budget_epoch)
        return cls(
            Jury(ledger, outside.court, outside.evidence, scale, served.owner, outside.clock),
            Defence(outside.defence, accused, outside.clock, budget),
        )


def loops_of(
    settings: NodeSettings,
    key: SigningKey,
    domain: Domain,
    ledger: Ledger,
    book: ChannelBook,
    settlement: Settlement,
    court: Court,
    outside: Outside,
) -> Loops:
    """All loops of a node."""
    loops = Loops(settings.poll_seconds)
    loops.add("settlement", settlement.step)
    loops.add("write-off", WriteOff(ledger, book, outside.clock).step)
    reservations = Reservations(ledger, outside.reserve, key.address, least=settings.least_reservation)
    loops.add("reservations", reservations.step)
    challenges = Challenges(ledger, outside.challenges, domain, outside.deployed_block, settlement.reread)
    loops.add("challenges", challenges.step)
    loops.add("defence", court.defence.step)
    # An engine that makes vectors replays nothing.
    if settings.jury and not settings.embeds:
        loops.add("jury", court.jury.step)
    return loops
