"""The engines that a run of adversaries shares: the genuine model's, and one for each other folder of weights."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Iterable
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

import evidence_weights
from make_cheaper_weights import WEIGHTS
from retally.devnet.engine_server import EngineServer, model_name_of, share_cores
from retally.devnet.processes import end_marked
from retally.devnet.tools import devnet_model_dir

GENUINE = ""
PRUNED = "pruned"
PRUNED_SHARE = 0.3


def pruned(weight: Tensor) -> Tensor:
    """A matrix without the entries of least magnitude."""
    wide = weight.float()
    least = wide.abs().flatten().kthvalue(int(PRUNED_SHARE * wide.numel())).values
    return torch.where(wide.abs() <= least, torch.zeros_like(wide), wide)


def weights_folder(kind: str, cache: Path) -> Path:
    """The folder that an engine loads, made if it is not there."""
    model = devnet_model_dir()
    if kind == GENUINE:
        return model
    recipe = [evidence_weights.sha256(model), PRUNED_SHARE if kind == PRUNED else evidence_weights.recipe(kind)]
    folder = cache / f"weights-{kind}-{hashlib.sha256(repr(recipe).encode()).hexdigest()[:16]}"
    if kind != PRUNED or (folder / WEIGHTS).exists():
        return evidence_weights.make(kind, model, folder)
    # The plain folder first, so that all that is no matrix is there already.
    evidence_weights.make("int8", model, folder)
    weights = {
        name: pruned(value) if value.dim() == 2 and "embed" not in name else value.float()
        for name, value in load_file(model / WEIGHTS).items()
    }
    save_file({name: value.contiguous() for name, value in weights.items()}, folder / WEIGHTS, {"format": "pt"})
    return folder


class Engines:
    """Starts an engine when it is first asked for; networks come and go around them."""

    def __init__(self, home: Path, cache: Path, genuine_url: str | None = None) -> None:
        """`genuine_url` is an engine that runs already, and is left alone."""
        self._home = home
        self._cache = cache
        self._given = {GENUINE: genuine_url} if genuine_url else {}
        self._servers: dict[str, EngineServer] = {}

    async def need(self, kinds: Iterable[str]) -> dict[str, str]:
        """The addresses of these engines; any other but the genuine one is ended first, for its memory."""
        wanted = {GENUINE, *kinds} - self._given.keys()
        for kind in self._servers.keys() - wanted:
            await self._servers.pop(kind).stop()
        fresh = []
        for kind in sorted(wanted - self._servers.keys()):
            folder = await asyncio.to_thread(weights_folder, kind, self._cache)
            server = EngineServer(
                folder,
                self._home / "logs",
                mark=str(self._home),
                model_name=model_name_of(devnet_model_dir()),
                name=f"engine-{kind or 'genuine'}",
                cores=share_cores(1)[0],
            )
            server.launch()
            self._servers[kind] = server
            fresh.append(server)
        await asyncio.gather(*(server.wait_ready() for server in fresh))
        return {**self._given, **{kind: self._servers[kind].url for kind in wanted}}

    async def stop(self) -> None:
        """End all of them."""
        await asyncio.gather(*(server.stop() for server in self._servers.values()))
        self._servers.clear()
        await asyncio.to_thread(end_marked, str(self._home))
