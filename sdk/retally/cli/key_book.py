"""Which signer each API key of this machine has: a router that is not to be trusted any more must not be asked it."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

from retally.errors import Conflict
from retally.private_files import make_private
from retally.protocol.encoding import Address


@dataclass(frozen=True, slots=True)
class MadeKey:
    """One API key as it was made; the key itself is nowhere kept."""

    key_id: str
    signer: str
    payer: str
    chain_id: int
    router: str


class KeyBook:
    """The keys that a payer made from this home, one a line."""

    def __init__(self, home: Path, payer: Address, chain_id: int) -> None:
        self._path = home / "api_keys.jsonl"
        self._payer = payer
        self._chain_id = chain_id

    def add(self, key_id: str, signer: Address, router: str) -> None:
        """Writes a key down, before the chain knows its signer."""
        known = self.by_id(key_id)
        if known is not None and known.signer != signer:
            raise Conflict(f"the router gives the id {key_id}, which another key of yours has", code="key_id_taken")
        made = MadeKey(key_id, signer, self._payer, self._chain_id, router)
        make_private(self._path)
        with self._path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(asdict(made)) + "\n")
            file.flush()
            os.fsync(file.fileno())

    def by_id(self, key_id: str) -> MadeKey | None:
        """The key of an id."""
        return next((made for made in self._made() if made.key_id == key_id), None)

    def by_signer(self, signer: Address) -> MadeKey | None:
        """The key of a signer."""
        return next((made for made in self._made() if made.signer == signer), None)

    def _made(self) -> Iterator[MadeKey]:
        if not self._path.exists():
            return
        for line in self._path.read_text(encoding="utf-8").splitlines():
            try:
                made = MadeKey(**json.loads(line))
            except (ValueError, TypeError):
                continue  # a line that a crash cut off
            if (made.payer, made.chain_id) == (self._payer, self._chain_id):
                yield made
