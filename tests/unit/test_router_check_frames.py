"""What a node's frames say of tokens is said of one of the job's choices, or the node is left."""

from __future__ import annotations

from typing import Any, cast

import msgspec
import pytest

from retally.errors import InvalidReceipt
from retally_router.check_frames import ChoiceState, FrameChecker, Taken
from retally_router.frames import Frame


def take(**extra: Any) -> Taken:
    """A frame with that beside its text, of a job with one choice."""
    payload = msgspec.json.encode({"choices": [{"index": 0, "text": "w"}], "retally": extra})
    checker = FrameChecker(cast(Any, None), [ChoiceState(0)])
    return checker.take(Frame(b"data: " + payload + b"\n\n", payload))


@pytest.mark.parametrize(
    "extra", [{"ids": [1], "q": [1], "outputFrom": 0}, {"chunk": {"due": "1"}}, {"receipt": {"fee": "1"}}]
)
@pytest.mark.parametrize("choice", [None, 1])
def test_of_no_choice_that_there_is(extra: dict[str, Any], choice: int | None) -> None:
    with pytest.raises(InvalidReceipt, match="choice"):
        take(choice=choice, **extra)


def test_of_no_tokens() -> None:
    assert take(promptTokens=7) == Taken(prompt_tokens=7)
