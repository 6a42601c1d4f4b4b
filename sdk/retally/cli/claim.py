"""`retally claim`: prove to the contracts what a node's own signatures show to be false of a job (R-50)."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Annotated, Any

import httpx2
import typer

from retally.cli.amounts import show_amount
from retally.cli.held_job import (
    AskText,
    ModelDir,
    PromptFile,
    Receipt,
    held_content,
    held_evidence,
    held_prompt,
    model_folder,
    model_kit,
)
from retally.cli.money import sender_of
from retally.cli.output import emit, is_json, note
from retally.cli.session import Session, run
from retally.errors import BadRequest, RetallyError
from retally.job_evidence import Evidence
from retally.protocol.encoding import parse_signature, to_hex
from retally.protocol.receipt import JobReceipt, ReceiptLeaf
from retally.stored_job import evidence_of

#: What a node may make of a look at it: no answer, no URL, no JSON of the right shape.
UNREADABLE = (RetallyError, KeyError, TypeError, ValueError, RecursionError, httpx2.InvalidURL)


def claim(
    ctx: typer.Context,
    receipt: Receipt,
    prompt: PromptFile = None,
    ask: AskText = None,
    model_dir: ModelDir = None,
    yes: Annotated[bool, typer.Option("--yes", help="Prove what is found without asking.")] = False,
) -> None:
    """Compare a job's receipts with its request, its offer and what the node shows and committed; prove what is false.

    A proven fault is slashed at once, without a jury; a fee that was collected comes back, and a part of the slash is
    yours. It costs gas alone. `retally withdraw` pays the credit out.
    """
    from retally.receipt_faults import find_faults

    session = Session(ctx)
    content = held_content(session, receipt)
    evidence = _evidence(ctx, session, content, held_prompt(prompt, ask), model_dir)
    faults = find_faults(evidence, _shown(ctx, session, evidence), session.domain)
    for fault in faults:
        note(ctx, f"{fault.name}: node {fault.node}: {fault.says}")
    proven = run(lambda: _prove(ctx, session, faults)) if faults and _is_agreed(ctx, yes) else None
    shown = [{"name": fault.name, "node": fault.node, "says": fault.says} for fault in faults]
    outcomes = proven or [{"proven": False}] * len(faults)
    data = {"faults": [one | outcome for one, outcome in zip(shown, outcomes, strict=True)]}
    emit(ctx, data, _text(data["faults"], asked=proven is not None))


def _evidence(
    ctx: typer.Context, session: Session, content: dict[str, Any], prompt: dict[str, Any] | None, model_dir: Any
) -> Evidence:
    """The record, with the model's template where it is at hand: only then can the prompt's tokens be counted."""
    try:
        kit, _, _ = model_kit(model_folder(session, model_dir))
    except BadRequest as error:
        note(ctx, f"the prompt's tokens are not counted: {error.message}")
        return evidence_of(content, domain=session.domain, prompt=prompt)
    evidence = held_evidence(session, content, prompt, kit)
    if evidence.prompt is None:
        note(ctx, "the prompt's tokens are not counted: give the prompt with --ask or --prompt")
    return evidence


def _shown(ctx: typer.Context, session: Session, evidence: Evidence) -> Any:
    """What the nodes show of the job now; one that shows nothing leaves what is held."""
    from retally.inclusion import Inclusion
    from retally.receipt_faults import Shown

    receipts: list[ReceiptLeaf] = []
    inclusions: list[Inclusion] = []
    endpoints = _endpoints(ctx, session)
    for node, job in dict.fromkeys((leaf.receipt.node, leaf.receipt.job_id) for leaf in evidence.receipts):
        path = f"/retally/v1/receipts/{to_hex(job)}"
        try:
            if node not in endpoints:
                raise BadRequest(f"{node} is not in the router's directory")
            receipts += [_leaf(one) for one in session.ask(endpoints[node], "GET", path)["receipts"]]
            shown = session.ask(endpoints[node], "GET", f"{path}/inclusion")["inclusions"]
            inclusions += [Inclusion.from_wire(one) for one in shown]
        except UNREADABLE as error:
            note(ctx, f"only what you hold is looked at, node {node} shows nothing that can be read: {error}")
    return Shown(receipts, run(lambda: _made(session, inclusions)) if inclusions else [])


def _endpoints(ctx: typer.Context, session: Session) -> dict[str, str]:
    try:
        return {node["node"]: node["endpoint"] for node in session.router("GET", "/retally/v1/nodes")["nodes"]}
    except UNREADABLE as error:
        note(ctx, f"the router shows no nodes: {error}")
        return {}


async def _made(session: Session, inclusions: Sequence[Any]) -> list[Any]:
    """Those under a commit that the chain knows: one that a node made up would only shield it."""
    async with session.chain() as chain:
        return [one for one in inclusions if await chain.escrow.is_commit(one.commit)]


def _leaf(value: Any) -> ReceiptLeaf:
    return ReceiptLeaf(JobReceipt.from_wire(value["receipt"]), parse_signature("signature", value["signature"]))


def _is_agreed(ctx: typer.Context, yes: bool) -> bool:
    if yes or is_json(ctx) or not sys.stdin.isatty():
        return yes
    return typer.confirm("Prove it? It costs gas alone.", err=True)


async def _prove(ctx: typer.Context, session: Session, faults: Sequence[Any]) -> list[dict[str, Any]]:
    from retally.claim_faults import Claimant

    key, outcomes = session.key(), []
    async with session.chain() as chain:
        sender = sender_of(chain, session, key)
        await sender.resume()
        claimant = Claimant(chain, sender)
        for fault in faults:
            try:
                ended = await claimant.prove(fault)
            except RetallyError as error:
                # Also where it was punished before: nothing of a fault is proven twice. What was proven so far is told.
                outcomes.append({"proven": False, "refused": error.message})
                note(ctx, f"{fault.name}: not proven: {error.message}")
                continue
            outcomes.append(
                {
                    "proven": True,
                    "owner": ended.owner,
                    "slashed": str(ended.slashed),
                    "refunded": str(ended.refunded),
                }
            )
    return outcomes


def _text(faults: Sequence[dict[str, Any]], *, asked: bool) -> str:
    if not faults:
        return "nothing found: references, prices, the prompt's count, conflicts and money billed twice were looked at"
    if not asked:
        return f"{len(faults)} provable; `--yes` proves it"
    lines = []
    for fault in faults:
        if fault["proven"]:
            slashed, back = show_amount(int(fault["slashed"])), show_amount(int(fault["refunded"]))
            lines.append(f"{fault['name']} proven: {slashed} slashed of {fault['owner']}, {back} paid back")
        else:
            lines.append(f"{fault['name']} not proven: {fault['refused']}")
    return "\n".join(lines)
