"""What a payer knows about one job, and what its checks found."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

from retally.asked import Asked
from retally.protocol.eip712 import Domain
from retally.protocol.job import JobParams, JobRequest
from retally.protocol.offer import Offer
from retally.protocol.receipt import ReceiptLeaf

T = TypeVar("T")
PromptRenderer = Callable[[Mapping[str, Any], str], Sequence[int]]


class Unknown(Exception):
    """A check lacks what it needs."""


@dataclass(frozen=True, slots=True)
class CheckResult:
    """One check: its name, its outcome (None: could not be made) and why."""

    name: str
    passed: bool | None
    detail: str = ""


@dataclass(frozen=True, slots=True)
class Checks:
    """The outcome of all checks of one answer."""

    results: tuple[CheckResult, ...]

    @property
    def passed(self) -> bool:
        """No check failed, and there was something to check."""
        return bool(self.results) and all(result.passed is not False for result in self.results)

    @property
    def complete(self) -> bool:
        """Every check could be made."""
        return all(result.passed is not None for result in self.results)

    @property
    def failures(self) -> list[CheckResult]:
        """The checks that failed."""
        return [result for result in self.results if result.passed is False]

    @property
    def unknown(self) -> list[CheckResult]:
        """The checks that could not be made."""
        return [result for result in self.results if result.passed is None]

    @property
    def word(self) -> str:
        """`passed` where all were made and none failed, else `failed: …` or `unchecked: …` with the checks' names."""
        for start, results in (("failed", self.failures), ("unchecked", self.unknown)):
            if results:
                return f"{start}: {', '.join(result.name for result in results)}"
        return "passed" if self.results else "unchecked"

    def as_dict(self) -> dict[str, bool | None]:
        """Name to outcome."""
        return {result.name: result.passed for result in self.results}

    def __getitem__(self, name: str) -> bool | None:
        return self.as_dict()[name]

    def __iter__(self) -> Iterator[CheckResult]:
        return iter(self.results)


@dataclass
class Evidence:
    """All that is known about one job on the payer's side."""

    domain: Domain | None = None
    request: JobRequest | None = None
    request_signature: bytes | None = None
    asked: Asked | None = None
    prompt: Mapping[str, Any] | None = None
    params: JobParams | None = None
    offer: Offer | None = None
    offer_signature: bytes | None = None
    receipts: list[ReceiptLeaf] = field(default_factory=list)
    ids: dict[int, list[int]] = field(default_factory=dict)
    quantised: dict[int, list[int]] = field(default_factory=dict)
    stated_cost: int | None = None
    renderer: PromptRenderer | None = None
    #: An answer that we receive ourselves: what of it was left out did not arrive. Of a stored one it is unknown.
    is_live: bool = False

    @property
    def cost(self) -> int:
        """The sum of the receipts' fees."""
        return sum(leaf.receipt.fee for leaf in self.receipts)


def known(value: T | None, what: str) -> T:
    """The value, or Unknown."""
    if value is None:
        raise Unknown(f"{what} not at hand")
    return value
