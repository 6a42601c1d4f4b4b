"""Where the contracts of one chain are. Imports no web3: the router's hot worker reads it too."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from retally.errors import BadRequest, NotFound
from retally.protocol.eip712 import Domain
from retally.protocol.encoding import Address, parse_address, parse_object


@dataclass(frozen=True)
class Deployment:
    """One deployment: chain, contracts, and what they were deployed with."""

    chain_id: int
    deployed_block: int
    contracts: Mapping[str, Address]
    parameters: Mapping[str, Any] = field(default_factory=dict)
    models: tuple[Mapping[str, Any], ...] = ()
    profiles: tuple[Mapping[str, Any], ...] = ()

    @classmethod
    def load(cls, path: str | Path) -> Deployment:
        """The deployment of a file as `scripts/deploy.py` writes it."""
        try:
            text = Path(path).read_text(encoding="utf-8")
        except FileNotFoundError as error:
            raise NotFound(f"there is no deployment file {path}", hint="run retally devnet up, or name one") from error
        except OSError as error:
            raise BadRequest(f"the deployment file {path} can't be read: {error.strerror}") from error
        try:
            return cls.from_json(json.loads(text))
        except (ValueError, TypeError, KeyError, RecursionError) as error:
            raise BadRequest(f"{path} is no deployment file", hint="scripts/deploy.py writes one") from error

    @classmethod
    def from_json(cls, value: object) -> Deployment:
        """The deployment of a JSON object."""
        wire = parse_object("deployment", value)
        contracts = parse_object("contracts", wire.get("contracts"))
        return cls(
            chain_id=int(wire["chainId"]),
            deployed_block=int(wire.get("deployedBlock", 0)),
            contracts={name: parse_address(name, address) for name, address in contracts.items()},
            parameters=parse_object("parameters", wire.get("parameters", {})),
            models=tuple(wire.get("models", ())),
            profiles=tuple(wire.get("profiles", ())),
        )

    def to_json(self) -> dict[str, Any]:
        """The JSON object of the deployment."""
        return {
            "chainId": self.chain_id,
            "deployedBlock": self.deployed_block,
            "contracts": dict(self.contracts),
            "parameters": dict(self.parameters),
            "models": [dict(item) for item in self.models],
            "profiles": [dict(item) for item in self.profiles],
        }

    def address(self, name: str) -> Address:
        """The address of a contract."""
        if name not in self.contracts:
            raise BadRequest(f"the deployment has no {name}")
        return self.contracts[name]

    @property
    def domain(self) -> Domain:
        """The EIP-712 domain of all signatures."""
        return Domain(self.chain_id, self.address("Escrow"))
