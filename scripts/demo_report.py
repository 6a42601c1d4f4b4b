"""The end of the demo: who paid whom, and whether everything is as it must be."""

from __future__ import annotations

import asyncio
import json
import sys
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from demo_books import Books, CaseStory
from retally.chain.events import collected_of

SCRIPTS = Path(__file__).resolve().parent
ASSET_DECIMALS = 6

Rows = list[tuple[str, str, str, str]]


def money(amount: int) -> str:
    """An amount as people read it."""
    return f"{amount / 10**ASSET_DECIMALS:,.6f} rUSD"


def money_table(books: Books, cases: Sequence[CaseStory], name: Callable[[str], str]) -> tuple[tuple[str, ...], Rows]:
    """Columns and rows of the flows that the contracts announced."""
    flows: Counter[tuple[str, str, str]] = Counter()
    for event in books.named("Collected"):
        collect = collected_of(event)
        flows["payers", name(collect.commit.owner), "collected for receipts"] += collect.paid - collect.audit_share
        flows["payers", "audit pool", "audit share of it"] += collect.audit_share
    for event in books.named("AuditPaid"):
        flows["audit pool", name(event.args["to"]), "audits and seeds"] += event.args["amount"]
    for case in cases:
        if case.executed is not None:
            end, accused = case.executed.args, name(case.owner)
            flows[accused, "payers", f"refund of {len(case.shown)} shown jobs"] += end["refunded"]
            flows[accused, "court", "challenger and jurors"] += end["rewards"]
            flows[accused, "nobody", "burned"] += end["burned"]
    rows = [(*flow, money(amount)) for flow, amount in flows.items()]
    return ("from", "to", "for", "amount"), rows


async def run_check_script(name: str, rpc_url: str, deployment: Path) -> dict[str, Any]:
    """Run a script that shares no code with the services, and read the object on its last line."""
    command = [str(SCRIPTS / name), "--rpc", rpc_url, "--deployment", str(deployment), "--json"]
    process = await asyncio.create_subprocess_exec(
        sys.executable, *command, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE
    )
    output, errors = await process.communicate()
    lines = output.decode().strip().splitlines()
    if not lines:
        raise RuntimeError(f"{name} printed nothing: {errors.decode()[-500:]}")
    found: dict[str, Any] = json.loads(lines[-1])
    return found


def check_books(
    books: Books,
    cases: Sequence[CaseStory],
    supply: dict[str, Any],
    points: dict[str, Any],
    honest_owners: Sequence[str],
    verifier: str,
) -> dict[str, Any]:
    """The report, with what is not as it must be under `failures`.

    The verifier's own replays forbid audit (else each audit would draw audits of its replays): they count apart.
    """
    honest = books.audits(honest_owners, without_payer=verifier)
    audits = books.audits(without_payer=verifier)
    executed = [case.executed.args for case in cases if case.executed]
    # The network still runs: what was committed after these books were read is not compared.
    drawn = books.drawn()
    agree = own_points(books) == {point for point in third_party_points(points) if point[0] in drawn}
    failures = [*honest_failures(honest, cases, honest_owners), *case_failures(cases)]
    if not supply["supply_conserved"]:
        failures.append(f"the asset is not conserved: {supply}")
    if not agree:
        failures.append("a third party's audit points differ from the protocol's")
    return {
        "collected": books.collected_by(),
        "audits": audits,
        "audits_forbidden": sum(books.audits().values()) - sum(audits.values()),
        "dispute": {
            "verdict": cases[0].verdict if cases else None,
            "jurors": len(cases[0].jurors) if cases else 0,
            "cases": len(cases),
        },
        "slashed": sum(flows["slashed"] for flows in executed),
        "refunded": sum(flows["refunded"] for flows in executed),
        "supply_conserved": supply["supply_conserved"],
        "audit_points_agree": agree,
        "failures": failures,
    }


def honest_failures(audits: dict[str, int], cases: Sequence[CaseStory], owners: Sequence[str]) -> list[str]:
    """What must not happen to honest owners."""
    failures = []
    if audits["mismatch"] or audits["inconclusive"] or not audits["match"]:
        failures.append(f"audits of honest nodes were {audits}, not all match")
    if any(case.owner in owners for case in cases):
        failures.append("an honest owner was brought to court")
    return failures


def case_failures(cases: Sequence[CaseStory]) -> list[str]:
    """What each case must end in: mismatch, a slash, and on top of it the fees of the shown jobs for their payers."""
    failures = []
    for case in cases:
        flows = case.executed.args if case.executed else {"slashed": 0, "refunded": 0}
        if case.verdict != "mismatch" or flows["slashed"] <= 0 or flows["refunded"] != case.paid_for_shown:
            failures.append(
                f"case {case.case_id}: {case.verdict}, slashed {flows['slashed']}, refunded {flows['refunded']}"
                f" of {case.paid_for_shown} paid for the shown jobs"
            )
    return failures


def own_points(books: Books) -> set[tuple[int, str, int]]:
    """(commit, channel, point) of every drawn point, by the protocol's own code."""
    return {
        (commit_id, "0x" + point.channel.hex(), point.point)
        for commit_id, points in books.drawn().items()
        for point in points
    }


def third_party_points(answer: dict[str, Any]) -> set[tuple[int, str, int]]:
    """The same from the other script's answer."""
    return {
        (int(commit["commitId"]), point["channel"].lower(), int(point["point"]))
        for commit in answer["commits"]
        for point in commit["points"]
    }
