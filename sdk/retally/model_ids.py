"""Which model a name stands for: the payer's word, not a router's."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from retally.errors import BadRequest
from retally.protocol.encoding import Bytes32, parse_bytes32, to_hex


class ModelIds:
    """Names and the ids that they may stand for; a name that nothing is known of keeps its first."""

    def __init__(self, known: Iterable[tuple[str, Bytes32]] = ()) -> None:
        self._ids: dict[str, frozenset[Bytes32]] = {}
        self.learn(known)

    def learn(self, known: Iterable[tuple[str, Bytes32]]) -> None:
        """Adds what is known for sure."""
        for name, model_id in known:
            # Two versions of a model may be registered under one name.
            self._ids[name] = self.of(name) | {model_id}

    def of(self, name: str) -> frozenset[Bytes32]:
        """The ids that a name may stand for; none where nothing is known. A model may be named by its id."""
        if name.startswith("0x") and len(name) == 66:
            return frozenset({parse_bytes32("model", name)})
        return self._ids.get(name, frozenset())

    def check(self, name: str, model_id: Bytes32) -> None:
        """Raises BadRequest for another model than the one named; remembers what a new name stands for."""
        allowed = self.of(name) or self._ids.setdefault(name, frozenset({model_id}))
        if model_id not in allowed:
            raise BadRequest(
                f"the model offered is {to_hex(model_id)}, {name} is {', '.join(sorted(map(to_hex, allowed)))}",
                param="model",
                code="other_model",
                hint="ask another router; where the model has a new version, name it by its id or start a new client",
            )


def ids_of_deployment(models: Sequence[Mapping[str, Any]]) -> list[tuple[str, Bytes32]]:
    """The names and ids of a deployment's models."""
    return [
        (str(item["name"]), parse_bytes32("modelId", item["modelId"]))
        for item in models
        if "name" in item and "modelId" in item
    ]
