"""Inside the engine of `scripts/bench_sampler --profile`: the sampler with clocks around the parts of a step.

The figures go to the file named by RETALLY_SAMPLER_PROFILE, a few times a second.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from vllm.config import VllmConfig
from vllm.v1.sample.logits_processor import BatchUpdate
from vllm.v1.sample.sampler import Sampler
from vllm.v1.worker.gpu_model_runner import GPUModelRunner

from retally.inference.vllm_sampler import RetallySampler

PROFILE_FILE = "RETALLY_SAMPLER_PROFILE"
WRITE_SECONDS = 0.2


class Clocks:
    """Processor seconds of this thread and calls, by part."""

    def __init__(self) -> None:
        self._parts: dict[str, list[float]] = {}
        self._written = 0.0

    def around(self, owner: Any, name: str, part: str) -> None:
        """Measure a method from now on."""
        inner: Callable[..., Any] = getattr(owner, name)

        def outer(*arguments: Any, **named: Any) -> Any:
            started = time.thread_time()
            result = inner(*arguments, **named)
            spent = self._parts.setdefault(part, [0.0, 0.0])
            spent[0] += 1
            spent[1] += time.thread_time() - started
            return result

        setattr(owner, name, outer)

    def write(self) -> None:
        """Write them down, not too often; whole or not at all."""
        if time.monotonic() - self._written < WRITE_SECONDS:
            return
        self._written = time.monotonic()
        path = Path(os.environ[PROFILE_FILE])
        fresh = path.with_suffix(".new")
        fresh.write_text(json.dumps(self._parts), encoding="utf-8")
        fresh.replace(path)


class TimedSampler(RetallySampler):
    """The sampler; the first one made puts the clocks in place."""

    def __init__(self, vllm_config: VllmConfig, device: torch.device, is_pin_memory: bool) -> None:
        super().__init__(vllm_config, device, is_pin_memory)
        self._clocks = Clocks()
        self._clocks.around(GPUModelRunner, "execute_model", "model")
        self._clocks.around(GPUModelRunner, "sample_tokens", "sampling and bookkeeping")
        self._clocks.around(Sampler, "forward", "sampler")
        self._clocks.around(self, "apply", "ours")

    def update_state(self, batch_update: BatchUpdate | None) -> None:
        """Follow the batch; a good moment to write, since it is outside the sampler."""
        super().update_state(batch_update)
        self._clocks.write()
