"""A re-executed job for people and as JSON."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from typing import Any

from rich.console import Group, RenderableType
from rich.text import Text

from retally.cli.output import table
from retally.protocol.case import VerdictKind
from retally.protocol.encoding import to_hex
from retally.protocol.evidence import JOB_CLIP
from retally.protocol.exact import ROUNDING
from retally.protocol.token_report import TokenRow
from retally.verify_job import HOLDERS_CHECKS, AnswerReport, JobReport, ReplayReport

TokenText = Callable[[int], str]


def report_json(report: JobReport, text: TokenText) -> dict[str, Any]:
    """One object; log e in nats."""
    return {
        "jobId": to_hex(report.answers[0].receipt.job_id),
        "verdict": report.verdict.name.lower(),
        "brokenRules": [
            {"rule": broken.rule, "detail": broken.detail, "choice": answer.receipt.choice}
            for answer in report.answers
            for broken in answer.broken
        ],
        "checks": report.checks.as_dict(),
        "receipts": [_answer_json(answer, text) for answer in report.answers],
    }


def _answer_json(answer: AnswerReport, text: TokenText) -> dict[str, Any]:
    receipt = answer.receipt
    return {
        "choice": receipt.choice,
        "outputFrom": receipt.output_from,
        "outputTo": receipt.output_to,
        "node": receipt.node,
        "profileId": to_hex(receipt.profile_id),
        "verdict": answer.verdict.name.lower(),
        "logE": answer.log_e,
        "e": math.exp(answer.log_e),
        "reason": answer.reason,
        "replays": [
            {
                "by": replay.by,
                "profileId": to_hex(replay.profile_id),
                "calibrated": replay.calibrated,
                "exact": replay.is_exact,
                "logE": replay.log_e,
                "tokens": [_row_json(row, text) for row in replay.rows],
            }
            for replay in answer.replays
        ],
    }


def _row_json(row: TokenRow, text: TokenText) -> dict[str, Any]:
    return {
        "position": row.position,
        "text": text(row.claimed_id),
        "claimedId": row.claimed_id,
        "allowedId": row.allowed_id,
        "margin": row.margin,
        "logE": row.log_e,
    }


def report_view(report: JobReport, text: TokenText, model: str) -> RenderableType:
    """What people see: broken rules, then tables of tokens, then the verdict."""
    parts: list[RenderableType] = [Text(f"job {to_hex(report.answers[0].receipt.job_id)} by {model}")]
    failed = [f"{check.name} ({check.detail})" for check in report.checks.failures]
    missing = [check.name for check in report.checks if check.passed is None]
    parts.append(Text("checks without replay: " + ("FAILED: " + "; ".join(failed) if failed else "passed")))
    if missing:
        parts.append(Text(f"not checked for want of their inputs: {', '.join(missing)}", style="dim"))
    for answer in report.answers:
        parts += _answer_view(answer, text)
    return Group(*parts)


def _answer_view(answer: AnswerReport, text: TokenText) -> list[RenderableType]:
    receipt = answer.receipt
    title = f"choice {receipt.choice}, tokens {receipt.output_from} to {receipt.output_to}, by node {receipt.node}"
    parts: list[RenderableType] = [Text(title, style="bold")]
    parts += [Text(f"broken rule: {broken.rule}: {broken.detail}", style="red") for broken in answer.broken]
    parts += [_replay_view(replay, text) for replay in answer.replays]
    parts.append(_verdict(answer))
    if answer.verdict == VerdictKind.MISMATCH:
        parts.append(Text(_advice(answer), style="dim"))
    return parts


def _advice(answer: AnswerReport) -> str:
    if answer.broken and answer.broken[0].rule in HOLDERS_CHECKS:
        return "only who received the answer can see this: no jury could"
    if answer.log_e < JOB_CLIP:
        return f"a jury decides a single job from log e {JOB_CLIP:g} on (R-67)"
    return f"a jury can have it paid back: retally reexecute {to_hex(answer.receipt.job_id)}"


def _replay_view(replay: ReplayReport, text: TokenText) -> RenderableType:
    return Group(_replay_table(replay, text), Text(_replay_summary(replay), style="dim"))


def _replay_summary(replay: ReplayReport) -> str:
    """What a long table shows, in a line."""
    off = [row for row in replay.rows if row.margin > (ROUNDING if replay.is_exact else 0)]
    if not off and replay.is_exact:
        return f"each of the {len(replay.rows)} tokens is the model's own choice (equality, R-72)"
    if not off:
        return f"each of the {len(replay.rows)} tokens is one that the model may have chosen"
    worst = max(off, key=lambda row: row.margin)
    if replay.is_exact:
        return f"{len(off)} of {len(replay.rows)} tokens differ; the first is token {off[0].position} (equality, R-72)"
    return (
        f"{len(off)} of {len(replay.rows)} tokens are not what the model would have chosen for certain; "
        f"the farthest off is token {worst.position}, by {worst.margin:.3f} nats"
    )


def _replay_table(replay: ReplayReport, text: TokenText) -> RenderableType:
    view = table("#", "token", "claimed", "allowed", "margin", "log e", title=f"replayed by {replay.by}")
    for row in replay.rows:
        shown = json.dumps(text(row.claimed_id), ensure_ascii=False)
        log_e = "" if row.log_e is None else f"{row.log_e:.2f}"
        style = "red" if row.margin >= 1 else "yellow" if row.margin > 0 else None
        cells = (str(row.position), shown, str(row.claimed_id), str(row.allowed_id), f"{row.margin:.3f}", log_e)
        view.add_row(*cells, style=style)
    return view


def _verdict(answer: AnswerReport) -> Text:
    word, style = answer.verdict.name.lower(), {1: "green", 2: "red"}.get(answer.verdict, "yellow")
    if answer.reason or answer.broken:
        return Text(f"{word}: {answer.reason or 'a rule is broken that needs no replay'}", style=style)
    meaning = "below 1 is a match, from 10000 on a mismatch"
    rule = "R-72" if any(replay.is_exact for replay in answer.replays) else "R-35"
    return Text(f"{word}: e = {math.exp(answer.log_e):.3g} (log e {answer.log_e:.2f}); {meaning} ({rule})", style=style)
