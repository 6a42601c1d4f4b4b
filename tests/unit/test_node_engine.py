"""The engine that a node starts or attaches to: pinned where the node starts it, probed wherever it came from."""

from __future__ import annotations

import asyncio
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from tests.fakes import FakeEngine

from retally.errors import EngineUnavailable
from retally.inference.engine import EngineInfo
from retally.inference.sampler_check import REMEDY
from retally.inference.vllm_flags import SAMPLER_PLUGIN
from retally_node.engine_process import EngineProcess, vllm_command
from retally_node.engine_start import ready_engine

RUNNER = "VLLM_USE_V2_MODEL_RUNNER"


class Foreign(FakeEngine):
    """An engine that somebody started without the sampler."""

    async def check(self) -> EngineInfo:
        return replace(await super().check(), has_sampler=False, problems=(f"12 seeded ones differ: {REMEDY}",))


class Dear(FakeEngine):
    """An engine that somebody started without the score route."""

    async def check(self) -> EngineInfo:
        return replace(await super().check(), hints=("replays cost more than need be",))


class Silent(FakeEngine):
    """An engine that does not answer."""

    async def check(self) -> EngineInfo:
        raise EngineUnavailable("connection refused")


async def ended(process: EngineProcess) -> None:
    """Wait until it has."""
    for _ in range(200):
        try:
            process.check_alive()
        except EngineUnavailable:
            return
        await asyncio.sleep(0.05)
    raise AssertionError("it runs on")


class TestStartedByTheNode:
    def test_loads_the_plugin(self, tmp_path: Path) -> None:
        command = vllm_command(tmp_path, "m", 8000, 1024)
        assert command[command.index("--logits-processors") + 1] == SAMPLER_PLUGIN

    async def test_has_the_first_runner_whatever_the_operators_shell_says(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv(RUNNER, "1")
        log = tmp_path / "engine.log"
        process = EngineProcess([sys.executable, "-c", f"import os; print(os.environ['{RUNNER}'])"], log)
        await process.start()
        await ended(process)
        assert log.read_text().strip() == "0"

    async def test_names_the_log_when_it_dies(self, tmp_path: Path) -> None:
        process = EngineProcess([sys.executable, "-c", "raise SystemExit(3)"], tmp_path / "engine.log")
        await process.start()
        await ended(process)
        with pytest.raises(EngineUnavailable, match="status 3") as caught:
            await ready_engine(Silent(), process, 5)
        assert "engine.log" in str(caught.value.hint)


class TestStartedByTheOperator:
    async def test_serves_with_the_sampler(self) -> None:
        assert (await ready_engine(FakeEngine(), None, 5)).has_sampler

    async def test_is_refused_without_it_and_the_remedy_said(self) -> None:
        with pytest.raises(EngineUnavailable) as caught:
            await ready_engine(Foreign(), None, 5)
        assert REMEDY in str(caught.value)
        assert "start_engine = true" in str(caught.value.hint)

    async def test_that_costs_more_than_need_be_serves_and_is_told_so(self, caplog: pytest.LogCaptureFixture) -> None:
        assert (await ready_engine(Dear(), None, 5)).has_prompt_logprobs
        assert "replays cost more than need be" in caplog.text
