"""What a calibration is asked to measure: a TOML file, or the devnet's three set-ups."""

from __future__ import annotations

import json
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from retally.devnet.catalogue import CALIBRATIONS
from retally.devnet.engine_server import is_cpu_build
from retally.errors import BadRequest
from retally.protocol.encoding import Bytes32, keccak
from retally.protocol.job import canonical_json

#: Fewer unrelated owners would measure one machine's habits.
LEAST_OWNERS = 3
AT_ONCE = 16
_PROFILES = CALIBRATIONS.parent / "profiles"


class PlannedSetUp(BaseModel):
    """One set-up of the file."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str = Field(min_length=1)
    owner: str = Field(min_length=1)
    #: A running vLLM. Without it and a node the folder's weights are run by the transformers library, to replay only.
    url: str | None = None
    #: A node of the market, by address or URL, that scores for money; it replays only, and its owner is the chain's.
    node: str | None = None
    at_once: int = Field(default=AT_ONCE, ge=1, le=AT_ONCE)


class Plan(BaseModel):
    """What is measured; paths are relative to the file."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    model_dir: Path
    node_profile: Path
    verifier_profile: Path
    setups: tuple[PlannedSetUp, ...]
    #: Folders of cheaper weights by name; they make the alternative besides lies on the genuine ones.
    cheaper: Mapping[str, Path] = {}
    #: One machine's set-ups suffice where one machine is the whole network.
    is_devnet: bool = False

    @classmethod
    def load(cls, path: Path) -> Plan:
        """The plan of a TOML file."""
        try:
            found = cls.model_validate(tomllib.loads(path.read_text(encoding="utf-8")))
        except (ValidationError, tomllib.TOMLDecodeError) as error:
            hint = "see verifier/examples/calibrate.toml"
            raise BadRequest(f"{path}: {error}", param="plan", hint=hint) from error
        places = {
            name: path.parent / getattr(found, name) for name in ("model_dir", "node_profile", "verifier_profile")
        }
        cheaper = {name: path.parent / folder for name, folder in found.cheaper.items()}
        return found.model_copy(update={**places, "cheaper": cheaper})

    @classmethod
    def of_devnet(cls, model_dir: Path, engine_url: str, cheaper: Mapping[str, Path]) -> Plan:
        """The devnet's: its engine with many jobs at once, with one at a time, and another implementation."""
        profile = devnet_profile()
        setups = (
            PlannedSetUp(name="engine-batched", owner="devnet", url=engine_url),
            PlannedSetUp(name="engine-alone", owner="devnet", url=engine_url, at_once=1),
            PlannedSetUp(name="reference", owner="devnet"),
        )
        return cls(
            model_dir=model_dir,
            node_profile=profile,
            verifier_profile=profile,
            setups=setups,
            cheaper=cheaper,
            is_devnet=True,
        )

    def check(self) -> None:
        """Raises where what is planned can't make a calibration."""
        names = [setup.name for setup in self.setups]
        if len(set(names)) < len(names):
            raise BadRequest("two set-ups have one name", param="setups", hint="give each a name of its own")
        if len(names) < LEAST_OWNERS:
            hint = "add set-ups of other owners: [[setups]] with name, owner and url"
            raise BadRequest(f"{len(names)} set-ups are not {LEAST_OWNERS}", param="setups", hint=hint)
        owners = {setup.owner for setup in self.setups}
        if len(owners) < LEAST_OWNERS and not self.is_devnet:
            hint = "add engines of unrelated owners; on a devnet, where one machine is all, set is_devnet = true"
            raise BadRequest(f"{len(owners)} owners are not {LEAST_OWNERS} unrelated ones", param="setups", hint=hint)
        if any(setup.url is not None and setup.node is not None for setup in self.setups):
            raise BadRequest("a set-up is an engine or a node", param="setups", hint="give it a url or a node")
        if all(setup.url is None for setup in self.setups):
            raise BadRequest(
                "no set-up answers: nodes and the reference only replay", param="setups", hint="add one with a url"
            )


@dataclass(frozen=True, slots=True)
class Profile:
    """A profile file."""

    id: Bytes32
    dtype: str


def profile_of(path: Path) -> Profile:
    """The id and precision of a profile file (R-12)."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        return Profile(keccak(canonical_json(content)), str(content["dtype"]))
    except (OSError, ValueError, KeyError, TypeError) as error:
        hint = "name the JSON file whose hash the Registry holds as profile; it states a dtype"
        raise BadRequest(f"{path} is no profile: {error!r}", param="profile", hint=hint) from error


def devnet_profile() -> Path:
    """This machine's profile on a devnet."""
    return _PROFILES / f"{'vllm-cpu-float32' if is_cpu_build() else 'vllm-cuda-bfloat16'}.json"
