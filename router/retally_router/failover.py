"""Goes on elsewhere: when a node dies in mid-answer, another continues from the exact token, in the same response."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from retally.errors import NodeUnavailable, RetallyError, UpstreamTimeout
from retally_router.check_frames import ChoiceState
from retally_router.frames import Frame, WholeView, made_frame


def unfinished(choices: Iterable[ChoiceState]) -> list[ChoiceState]:
    """The choices that still need a node."""
    return [choice for choice in choices if not choice.ended]


def cut_over(choices: Iterable[ChoiceState]) -> None:
    """Each unfinished choice begins a segment after its last forwarded token; one without tokens starts over."""
    for choice in choices:
        # Also with no token yet: the dead node may have signed for that segment of that choice.
        choice.next_segment()


def paid_so_far(choices: Iterable[ChoiceState]) -> int:
    """What the receipts of a job bill."""
    return sum(leaf.receipt.fee for choice in choices for leaf in choice.receipts)


def is_repeated_opening(frame: Frame) -> bool:
    """A continuation's role frame: the client has had one."""
    extra = frame.value.get("retally") or {}
    choices = frame.value.get("choices") or []
    if extra.get("ids") or extra.get("receipt") or len(choices) != 1:
        return False
    delta = choices[0].get("delta")
    return isinstance(delta, dict) and "role" in delta and not delta.get("content")


def whole_usage(frame: Frame, choices: Iterable[ChoiceState], prompt_tokens: int) -> Frame:
    """The usage frame of the last node, with the tokens of all segments."""
    output = sum(len(choice.ids) for choice in choices)
    value = frame.value
    details = (value.get("usage") or {}).get("prompt_tokens_details")
    usage = {
        "prompt_tokens": prompt_tokens,
        "completion_tokens": output,
        "total_tokens": prompt_tokens + output,
        "prompt_tokens_details": details,
    }
    return made_frame({**value, "usage": usage}, whole=isinstance(frame.view, WholeView))


def close_full(choices: Iterable[ChoiceState], max_output: int, last: Frame | None) -> list[Frame]:
    """Ends choices that have all their tokens and lack only the node's last word; no node can add to them."""
    frames = []
    for choice in unfinished(choices):
        if last is None or len(choice.ids) < max_output:
            continue
        choice.ended = True
        shape: dict[str, Any] = {"index": choice.index, "logprobs": None, "finish_reason": "length"}
        if last.value["object"] == "chat.completion.chunk":
            shape["delta"] = {}
        else:
            shape["text"] = ""
        base = {name: last.value[name] for name in ("id", "object", "created", "model")}
        frames.append(made_frame({**base, "choices": [shape]}, whole=isinstance(last.view, WholeView)))
    return frames


def told(error: RetallyError, tries: int) -> RetallyError:
    """What a client is told whose job no node took."""
    if isinstance(error, UpstreamTimeout) or error.status in (402, 409, 429):
        return error
    hint = "retry in a few seconds; GET /retally/v1/nodes shows the nodes"
    return NodeUnavailable(f"none of {tries} nodes could take the job, the last said: {error.message}", hint=hint)


def broken(error: RetallyError) -> RetallyError:
    """What a client is told whose answer nobody could finish."""
    if isinstance(error, UpstreamTimeout):
        return error
    hint = "send the request again; what you got so far is all that is billed"
    return NodeUnavailable(f"the answer broke off and no other node could go on: {error.message}", hint=hint)
