"""Calibrations: what honest margins look like for a pair of profiles, as integers with a hash."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any, Self

import numpy as np

from retally.errors import BadRequest
from retally.protocol.encoding import (
    Bytes32,
    check_fields,
    check_integer,
    keccak,
    parse_bytes32,
    parse_object,
    to_hex,
)
from retally.protocol.job import canonical_json
from retally.protocol.params import ONE, JobParams

PROBABILITY = 1_000_000_000
MODES = ("seeded", "greedy")
_BINS = ("edges", "honest", "cheat")


@dataclass(frozen=True, slots=True)
class Bins:
    """Bins of margins; `cheat` sums to at most one.

    `honest` are upper confidence bounds of the bins, or of the edges: then by how much those of a bin's two edges
    differ, which sums to one and holds for a ratio that never falls.
    """

    edges: tuple[int, ...]
    honest: tuple[int, ...]
    cheat: tuple[int, ...]

    def __post_init__(self) -> None:
        if list(self.edges) != sorted(set(self.edges)) or not self.edges or self.edges[0] <= 0:
            raise BadRequest("edges must be positive and rise", param="edges")
        if not len(self.honest) == len(self.cheat) == len(self.edges) + 1:
            raise BadRequest("there is one bin more than edges", param="honest")
        if min(self.honest) <= 0 or min(self.cheat) < 0 or sum(self.cheat) > PROBABILITY:
            raise BadRequest("bins must be positive, and alternatives weigh at most one", param="cheat")

    def ratios(self) -> np.ndarray[Any, np.dtype[np.float64]]:
        """cheat over honest for each bin."""
        return np.asarray(self.cheat, dtype=np.float64) / np.asarray(self.honest, dtype=np.float64)

    def bins(self, margins: np.ndarray[Any, np.dtype[np.float64]]) -> np.ndarray[Any, np.dtype[np.int64]]:
        """The bin of each margin: the first holds exactly zero to below the first edge."""
        return np.searchsorted(np.asarray(self.edges) / ONE, margins, side="right")

    def to_json(self) -> dict[str, Any]:
        """The JSON object."""
        return {"edges": list(self.edges), "honest": list(self.honest), "cheat": list(self.cheat)}

    @classmethod
    def from_json(cls, value: object) -> Self:
        """The bins of a JSON object."""
        wire = parse_object("bins", value)
        check_fields("bins", wire, set(_BINS))
        edges, honest, cheat = (_integers(name, wire[name]) for name in _BINS)
        return cls(edges, honest, cheat)


@dataclass(frozen=True, slots=True)
class MarginTable(Bins):
    """What judges a job: shares of tokens by margin and, if it was calibrated, of jobs by their largest margin.

    `largest.honest` holds for jobs of up to `largest_tokens` tokens: each is a bound of the chance that the largest
    margin reaches the bin at all, so that a shorter job's lies below it too. A longer job is so many such jobs.
    """

    largest: Bins | None = None
    largest_tokens: int = 0

    def __post_init__(self) -> None:
        Bins.__post_init__(self)
        if (self.largest is None) != (self.largest_tokens == 0) or self.largest_tokens < 0:
            raise BadRequest("bins of the largest margin go with the tokens that they hold for", param="largestTokens")
        self._check_bounds()

    def _check_bounds(self) -> None:
        """Refuse shares under which an honest token's e may exceed one on the mean, however they were measured."""
        weight = sum(self.honest)
        if weight < PROBABILITY:
            raise BadRequest(
                f"honest shares weigh {weight} of {PROBABILITY}: bounds of bins or of edges never weigh less than one",
                param="honest",
                hint="measure the pair anew (retally verifier calibrate); shares are never scaled down",
            )
        if weight == PROBABILITY and (falls := self._falling_bin()) is not None:
            raise BadRequest(
                f"the alternative's ratio to the honest shares falls at bin {falls}, but they weigh one",
                param="cheat",
                hint="let it rise from bin to bin, or bound each bin by itself",
            )

    def _falling_bin(self) -> int | None:
        """The first bin whose ratio lies below the one before by more than rounding its share down explains."""
        bins = list(zip(self.cheat, self.honest, strict=True))
        for index, ((cheat, honest), (next_cheat, next_honest)) in enumerate(pairwise(bins), start=1):
            if cheat * next_honest > (next_cheat + 1) * honest:
                return index
        return None

    def to_json(self) -> dict[str, Any]:
        """The JSON object."""
        wire = Bins.to_json(self)
        if self.largest is None:
            return wire
        return {**wire, "largest": self.largest.to_json(), "largestTokens": self.largest_tokens}

    @classmethod
    def from_json(cls, value: object) -> Self:
        """The table of a JSON object."""
        wire = parse_object("table", value)
        check_fields("table", wire, set(_BINS), frozenset({"largest", "largestTokens"}))
        edges, honest, cheat = (_integers(name, wire[name]) for name in _BINS)
        largest = Bins.from_json(wire["largest"]) if "largest" in wire else None
        return cls(edges, honest, cheat, largest, check_integer("largestTokens", wire.get("largestTokens", 0), 32))


def _integers(name: str, value: object) -> tuple[int, ...]:
    if not isinstance(value, list):
        raise BadRequest(f"{name} must be a list", param=name)
    return tuple(check_integer(name, item, 64) for item in value)


@dataclass(frozen=True, slots=True)
class Calibration:
    """The margins of honest runs of a model under a pair of profiles, and where the numbers hold."""

    model_id: Bytes32
    node_profile: Bytes32
    verifier_profile: Bytes32
    tables: Mapping[str, MarginTable]
    #: Inclusive bounds by name: temperature, topP, topK, minP, promptTokens, outputTokens.
    ranges: Mapping[str, tuple[int, int]]
    #: What was measured, for people: jobs, tokens, engines, confidence.
    measured: Mapping[str, Any] = field(default_factory=dict)

    def table_for(self, params: JobParams) -> MarginTable | None:
        """The table of the job's kind of sampling, if it was calibrated."""
        return self.tables.get("greedy" if params.temperature == 0 else "seeded")

    def covers(self, params: JobParams, prompt_tokens: int, output_tokens: int) -> bool:
        """Whether the job lies in the calibrated ranges; outside, every verdict is inconclusive."""
        values = {
            "topP": params.top_p,
            "topK": params.top_k,
            "minP": params.min_p,
            "promptTokens": prompt_tokens,
            "outputTokens": output_tokens,
        }
        if params.temperature > 0:
            values["temperature"] = params.temperature
        else:
            # Greedy sampling ignores the nucleus.
            values = {name: values[name] for name in ("promptTokens", "outputTokens")}
        neutral = (
            params.repetition_penalty == ONE
            and params.frequency_penalty == params.presence_penalty == 0
            and not params.logit_bias
        )
        inside = all(low <= values[name] <= high for name, (low, high) in self.ranges.items() if name in values)
        return neutral and inside and self.table_for(params) is not None

    def to_json(self) -> dict[str, Any]:
        """The JSON object that the hash is over; it holds integers only."""
        return {
            "modelId": to_hex(self.model_id),
            "nodeProfile": to_hex(self.node_profile),
            "verifierProfile": to_hex(self.verifier_profile),
            "tables": {mode: table.to_json() for mode, table in self.tables.items()},
            "ranges": {name: list(bounds) for name, bounds in self.ranges.items()},
            "measured": dict(self.measured),
        }

    @property
    def hash(self) -> Bytes32:
        """What the Registry holds before the calibration may be used."""
        return keccak(canonical_json(self.to_json()))

    @classmethod
    def from_json(cls, value: object) -> Calibration:
        """The calibration of a JSON object."""
        wire = parse_object("calibration", value)
        names = {"modelId", "nodeProfile", "verifierProfile", "tables", "ranges", "measured"}
        check_fields("calibration", wire, names)
        tables = parse_object("tables", wire["tables"])
        check_fields("tables", tables, set(), frozenset(MODES))
        return cls(
            model_id=parse_bytes32("modelId", wire["modelId"]),
            node_profile=parse_bytes32("nodeProfile", wire["nodeProfile"]),
            verifier_profile=parse_bytes32("verifierProfile", wire["verifierProfile"]),
            tables={mode: MarginTable.from_json(table) for mode, table in tables.items()},
            ranges={name: _bounds(name, item) for name, item in parse_object("ranges", wire["ranges"]).items()},
            measured=parse_object("measured", wire["measured"]),
        )


def _bounds(name: str, value: object) -> tuple[int, int]:
    low, high = _integers(name, value)
    return low, high
