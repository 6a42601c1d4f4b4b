"""`retally models | nodes | cases`: what is for sale, by whom, and who was brought to court."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from retally.cli.amounts import show_amount
from retally.cli.output import emit, table
from retally.cli.session import Session, readable, run
from retally.errors import NotFound

VERDICTS = {0: "none yet", 1: "match", 2: "mismatch", 3: "inconclusive"}


def models(ctx: typer.Context) -> None:
    """Show the models that are served and their lowest prices."""
    session = Session(ctx)
    answer = session.router("GET", "/v1/models")
    view = table("model", "nodes", "context", "in / M tokens", "cached", "out", "audited")
    with readable("the router's list of models"):
        found = answer["data"]
        for model in found:
            facts = model.get("retally", {})
            prices = [show_amount(int(facts.get(name, 0))) for name in ("priceIn", "priceCached", "priceOut")]
            counts = (str(facts.get("nodes", "")), str(facts.get("maxContext", "")))
            view.add_row(str(model["id"]), *counts, *prices, "yes" if facts.get("audited") else "no")
    emit(ctx, {"models": found}, view)


def nodes(ctx: typer.Context) -> None:
    """Show the nodes that the router knows."""
    session = Session(ctx)
    answer = session.router("GET", "/retally/v1/nodes")
    view = table("node", "model", "in / M tokens", "out", "stake", "running", "state")
    with readable("the router's list of nodes"):
        found = answer["nodes"]
        for node in found:
            offer, running = node["offer"], str(node["load"]["running"])
            state = "ready" if node["routable"] else "unaudited" if node["alive"] else "not answering"
            prices = [show_amount(int(price)) for price in (offer["priceIn"], offer["priceOut"], node["stake"])]
            view.add_row(str(node["node"]), str(node["model"]), *prices, running, state)
    emit(ctx, {"nodes": found}, view)


def cases(
    ctx: typer.Context,
    case_id: Annotated[int | None, typer.Argument(help="One case with its rounds and votes; else all of them.")] = None,
) -> None:
    """Show the cases in Court, read from the chain."""
    session = Session(ctx)

    async def work() -> dict[str, Any]:
        async with session.chain() as chain:
            count = await chain.court.case_count()
            if case_id is None:
                return {"cases": [await _case(chain, number) for number in range(1, count + 1)]}
            if not 1 <= case_id <= count:
                raise NotFound(f"there is no case {case_id}", hint="see: retally cases")
            return {**await _case(chain, case_id), "rounds": await _rounds(chain, case_id)}

    data = run(work)
    emit(ctx, data, _cases_view(data["cases"]) if case_id is None else _case_view(data))


async def _case(chain: Any, number: int) -> dict[str, Any]:
    from retally.chain.court import CaseStatus

    case = await chain.court.case_of(number)
    return {
        "caseId": number,
        "owner": case.owner,
        "challenger": case.challenger,
        "status": CaseStatus(case.status).name.lower(),
        "verdict": VERDICTS.get(case.verdict, str(case.verdict)),
        "round": case.round,
        "openedAt": case.opened_at,
    }


async def _rounds(chain: Any, case_id: int) -> list[dict[str, Any]]:
    case = await chain.court.case_of(case_id)
    rounds = []
    for number in range(case.round + 1):
        jurors = await chain.court.jurors_of(case_id, number)
        votes = [await chain.court.vote_of(case_id, number, seat) for seat in range(len(jurors))]
        if jurors:
            rounds.append(
                {
                    "round": number,
                    "votes": [
                        {"juror": juror, "verdict": VERDICTS.get(vote.verdict, "?")}
                        for juror, vote in zip(jurors, votes, strict=True)
                    ],
                }
            )
    return rounds


def _cases_view(found: list[dict[str, Any]]) -> Any:
    view = table("case", "against", "by", "status", "verdict")
    for case in found:
        view.add_row(str(case["caseId"]), case["owner"], case["challenger"], case["status"], case["verdict"])
    return view if found else "no cases"


def _case_view(case: dict[str, Any]) -> Any:
    title = f"case {case['caseId']} against {case['owner']}: {case['status']}, verdict {case['verdict']}"
    view = table("round", "juror", "verdict", title=title)
    for entry in case["rounds"]:
        for vote in entry["votes"]:
            view.add_row(str(entry["round"]), vote["juror"], vote["verdict"])
    return view
