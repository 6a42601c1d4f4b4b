"""`retally verifier calibrate` and `calibrations`: what they are told, and what they refuse before they measure."""

from __future__ import annotations

import json
import tomllib
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from tests.contracts.court.crash_nodes import FakeFormat
from tests.fakes_replay import OWNERS
from tests.fakes_setups import EOS, NumpyNode, NumpySetUp
from typer.testing import CliRunner

from retally.devnet.catalogue import CALIBRATIONS
from retally.errors import BadRequest, EngineUnavailable
from retally.inference.model_files import ModelFiles
from retally.protocol.encoding import keccak
from retally_verifier.calibrate.canaries import Canaries
from retally_verifier.calibrate.measure import Bench
from retally_verifier.calibrate.open_setups import SetUps
from retally_verifier.calibrate.plan import Plan, PlannedSetUp, profile_of
from retally_verifier.calibrate.setups import engine_set_up
from retally_verifier.calibrate.shards import Shards
from retally_verifier.commands import app

EXAMPLE = Path(__file__).parents[2] / "verifier" / "examples" / "calibrate.toml"


class TestPlan:
    def test_reads_the_example_with_paths_beside_it(self) -> None:
        plan = Plan.load(EXAMPLE)
        plan.check()
        assert plan.model_dir.is_dir()
        assert profile_of(plan.node_profile).dtype == "float32"
        assert [setup.at_once for setup in plan.setups] == [16, 4, 16]

    @pytest.mark.parametrize(
        ("change", "complaint"), [({"owner": "first owner"}, "unrelated"), ({"name": "first"}, "one name")]
    )
    def test_refuses_set_ups_that_are_not_unrelated(
        self, tmp_path: Path, change: Mapping[str, str], complaint: str
    ) -> None:
        wire = tomllib.loads(EXAMPLE.read_text())
        wire["setups"][1] |= change
        plan = Plan.model_validate(wire)
        with pytest.raises(BadRequest, match=complaint):
            plan.check()

    def test_refuses_two_set_ups_and_a_file_with_unknown_words(self, tmp_path: Path) -> None:
        wire = tomllib.loads(EXAMPLE.read_text())
        with pytest.raises(BadRequest, match="are not 3"):
            Plan.model_validate({**wire, "setups": wire["setups"][:2]}).check()
        path = tmp_path / "plan.toml"
        path.write_text('model = "x"\n')
        with pytest.raises(BadRequest, match=r"plan\.toml"):
            Plan.load(path)

    async def test_says_which_engine_does_not_answer(self) -> None:
        with pytest.raises(EngineUnavailable) as raised:
            await engine_set_up("first", "a", "http://127.0.0.1:9", "retally/devnet-4m", EOS, 1)
        assert "set-up first must serve these weights" in raised.value.hint


class TestCommands:
    def test_shows_the_hashes_of_files(self) -> None:
        printed = CliRunner().invoke(app, ["calibrations", str(CALIBRATIONS), "--json"])
        assert printed.exit_code == 0
        (found,) = json.loads(printed.stdout)["calibrations"]
        assert found["file"].endswith(".json")
        assert len(found["hash"]) == 66

    def test_names_the_file_that_is_no_calibration(self, tmp_path: Path) -> None:
        (tmp_path / "broken.json").write_text("{")
        printed = CliRunner().invoke(app, ["calibrations", str(tmp_path)])
        assert printed.exit_code == 2
        assert "broken.json" in printed.stderr

    @pytest.mark.parametrize("words", [[], ["--plan", str(EXAMPLE), "--engine-url", "http://x"]])
    def test_wants_either_a_plan_or_the_devnets_engine(self, words: list[str]) -> None:
        printed = CliRunner().invoke(app, ["calibrate", *words])
        assert printed.exit_code == 2
        assert "--plan" in printed.stderr

    def test_refuses_too_few_jobs_before_anything_is_measured(self, tmp_path: Path) -> None:
        words = ["calibrate", "--plan", str(EXAMPLE), "--jobs", "20", "--shards", str(tmp_path / "shards"), "--json"]
        printed = CliRunner().invoke(app, words)
        assert printed.exit_code == 2
        assert "raise --jobs" in json.loads(printed.stdout)["error"]["hint"]
        assert not (tmp_path / "shards").exists()


@dataclass
class FakePaid:
    """What opens the nodes of a market, by their names."""

    nodes: Mapping[str, NumpyNode]

    async def node(self, where: str, receipts: Sequence[object]) -> NumpyNode:
        return self.nodes[where]


class TestNodes:
    """Nodes of a market replay for money."""

    def opening(self, stack: AsyncExitStack, nodes: Mapping[str, NumpyNode] | None) -> SetUps:
        plan = Plan.load(EXAMPLE)
        files, profile = ModelFiles.load(plan.model_dir), profile_of(plan.verifier_profile)

        @asynccontextmanager
        async def market() -> AsyncIterator[Any]:
            yield FakePaid(nodes or {})

        return SetUps(stack, plan, files, Canaries(FakeFormat()), profile.id, None if nodes is None else market)

    def node(self, owner: int, *, profile: bytes | None = None) -> NumpyNode:
        plan = Plan.load(EXAMPLE)
        own = profile_of(plan.verifier_profile).id
        return NumpyNode(OWNERS[owner], ModelFiles.load(plan.model_dir).model_id, profile or own)

    async def test_replay_what_others_answered(self, tmp_path: Path) -> None:
        async with AsyncExitStack() as stack:
            opening = self.opening(stack, {"a": self.node(0), "b": self.node(1)})
            nodes = [await opening.open(PlannedSetUp(name=name, owner="x", node=name)) for name in "ab"]
            canaries = Canaries(FakeFormat())
            bench = Bench([NumpySetUp("engine", "own"), *nodes], canaries, Shards(tmp_path), lambda text: None)
            await bench.check()
            measured = await bench.measure(4, 2, 8, greedy=False, cheaper={})
        assert sorted(measured.honest) == ["engine by a", "engine by b"]
        assert max(job.max() for jobs in measured.honest.values() for job in jobs) < 1e-3
        assert [node.owner for node in nodes] == OWNERS[:2]

    async def test_must_be_of_the_verifiers_profile_and_of_different_owners(self) -> None:
        async with AsyncExitStack() as stack:
            nodes = {"a": self.node(0), "twin": self.node(0), "other": self.node(1, profile=keccak(b"other"))}
            opening = self.opening(stack, nodes)
            await opening.open(PlannedSetUp(name="a", owner="x", node="a"))
            with pytest.raises(BadRequest, match="nodes of one owner"):
                await opening.open(PlannedSetUp(name="twin", owner="y", node="twin"))
            with pytest.raises(BadRequest, match="another model or profile"):
                await opening.open(PlannedSetUp(name="other", owner="z", node="other"))

    async def test_need_a_chain(self) -> None:
        async with AsyncExitStack() as stack:
            with pytest.raises(BadRequest, match="no chain is known"):
                await self.opening(stack, None).open(PlannedSetUp(name="a", owner="x", node="a"))
