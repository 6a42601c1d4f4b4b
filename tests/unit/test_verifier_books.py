"""The verifier's settings and books."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from retally.errors import BadRequest
from retally.keystore import service_key
from retally.protocol.case import CommitRecord
from retally.protocol.eip712 import SigningKey
from retally.protocol.encoding import Bytes32, keccak
from retally.protocol.scored_rows import ScoredRows, scores_to_wire
from retally_verifier.loops import Loops
from retally_verifier.open_case import _strongest
from retally_verifier.records import (
    CaseRecord,
    ChallengeRecord,
    CommitState,
    Finding,
    FindingState,
    NodeRecord,
)
from retally_verifier.settings import VerifierSettings
from retally_verifier.store import Store

OWNER, NODE, PAYER = (SigningKey(keccak(name.encode())).address for name in ("owner", "node", "payer"))
MODEL, PROFILE = keccak(b"model"), keccak(b"profile")
COMMIT = CommitRecord(7, NODE, OWNER, keccak(b"root"), keccak(b""), 1000, 300_000, 12, 5_000)
FINDING = Finding(
    commit_id=7,
    range_index=0,
    k=3,
    channel=keccak(b"channel"),
    point=3_500,
    owner=OWNER,
    node=NODE,
    payer=PAYER,
    time=5_000,
    state=FindingState.REPLAYED,
    verdict=2,
    log_e=12.5,
    receipt_digest=keccak(b"receipt"),
    fee=400,
    answer=b"{}",
    detail={"replays": []},
)
EXAMPLES = Path(__file__).parents[2] / "verifier" / "examples"
SECRET = "0x" + "11" * 32


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    books = Store(tmp_path / "deep" / "verifier.sqlite")
    yield books
    books.close()


class TestStore:
    def test_keeps_commits_through_their_states(self, store: Store) -> None:
        store.add_commit(COMMIT, b"")
        store.add_commit(COMMIT, b"")
        (seen,) = store.commits(CommitState.SEEN)
        assert (seen.record, seen.seed) == (COMMIT, None)
        store.set_seed(7, keccak(b"seed"))
        store.set_seed(7, keccak(b"another"))
        store.set_verdicts(7, b"verdicts", bytes(32))
        store.set_state(7, CommitState.COMMITTED)
        (committed,) = store.commits(CommitState.COMMITTED, CommitState.DONE)
        assert (committed.seed, committed.verdicts, committed.salt) == (keccak(b"seed"), b"verdicts", bytes(32))
        assert store.commits_of(OWNER, 5_001) == []
        assert [commit.record.id for commit in store.commits_of(OWNER, 5_000)] == [7]

    def test_keeps_findings_in_the_order_of_verdicts(self, store: Store) -> None:
        later = replace(FINDING, k=11, log_e=-0.5, verdict=1)
        other = replace(FINDING, range_index=1, k=0, receipt_digest=None, answer=None, state=FindingState.SILENT)
        for found in (other, later, FINDING):
            store.put_finding(found)
        assert store.findings_of_commit(7) == [FINDING, later, other]
        assert store.finding_of_receipt(keccak(b"receipt")) is not None
        assert store.owners(5_000) == [OWNER]
        assert store.findings_of_owner(OWNER, 5_001) == []

    def test_does_not_settle_for_a_replay_that_failed(self, store: Store) -> None:
        store.put_finding(replace(FINDING, state=FindingState.UNREPLAYED))
        assert store.finding_of_receipt(keccak(b"receipt")) is None

    def test_knows_live_nodes(self, store: Store) -> None:
        store.put_node(NodeRecord(NODE, OWNER, MODEL, PROFILE, "http://node", False))
        assert [node.node for node in store.live_nodes(MODEL)] == [NODE]
        store.revoke_node(NODE)
        assert store.live_nodes(MODEL) == []
        known = store.node(NODE)
        assert known is not None
        assert known.revoked

    def test_keeps_cases_evidence_challenges_and_lanes(self, store: Store) -> None:
        store.put_case(CaseRecord(1, OWNER, PAYER, keccak(b"file"), b"shown", False, 0))
        store.close_case(1, 2)
        assert [(case.closed, case.verdict) for case in store.cases()] == [(True, 2)]
        store.put_evidence(keccak(b"file"), b"file")
        assert store.evidence(keccak(b"file")) == b"file"
        assert store.evidence(keccak(b"none")) is None
        store.put_challenge(ChallengeRecord(Bytes32(bytes(32)), 7, 0, 3, False))
        assert store.challenges()[0].k == 3
        assert store.lane(NODE) == (0, 0)
        store.set_lane(NODE, 10**20, 5)
        assert store.lane(NODE) == (10**20, 5)

    def test_writes_all_or_nothing(self, store: Store) -> None:
        def crash() -> None:
            with store.transaction("events"):
                store.set_cursor(9)
                raise sqlite3.OperationalError("crash")

        with pytest.raises(sqlite3.Error):
            crash()
        assert store.cursor() is None
        with store.transaction("events"):
            store.set_cursor(9)
        assert store.cursor() == 9


class TestStrongest:
    def test_shows_each_receipt_once_and_the_worst_first(self) -> None:
        weak = replace(FINDING, k=4, receipt_digest=keccak(b"weak"), log_e=1.0)
        again = replace(FINDING, k=5)
        clean = replace(FINDING, k=6, receipt_digest=keccak(b"clean"), log_e=-1.0)
        assert _strongest([clean, weak, FINDING, again]) == [FINDING, weak]

    def test_shows_as_many_as_a_case_takes(self) -> None:
        many = [replace(FINDING, k=i, receipt_digest=keccak(bytes([i]))) for i in range(40)]
        assert len(_strongest(many)) == 32


class TestScoredRows:
    @staticmethod
    def wire(logprobs: Sequence[Sequence[float]] = ((-0.5, -1.0),) * 3) -> dict[str, Any]:
        ids = np.array([[1, 2], [3, 4], [5, 6]], dtype=np.int32)
        rows = np.array(logprobs, dtype=np.float32)
        return scores_to_wire(1, ids, rows, rows[:, 0])

    def test_takes_the_rows_of_the_answer(self) -> None:
        wire = self.wire(((-0.5, -1.0), (-0.1, -np.inf), (-1 / 3, -9999.0)))
        rows = ScoredRows.from_wire(json.loads(json.dumps(wire)), 2, 2)
        assert rows.top_ids.tolist() == [[3, 4], [5, 6]]
        assert rows.top_logprobs.tolist() == np.float32([[-0.1, -np.inf], [-1 / 3, -9999.0]]).tolist()

    def test_is_what_the_rule_says(self) -> None:
        assert self.wire() == {
            "start": 1,
            "top": 2,
            "topIds": "0x" + "".join(f"{n:02x}000000" for n in range(1, 7)),
            "topLogprobs": "0x" + "000000bf000080bf" * 3,
            "claimed": "0x" + "000000bf" * 3,
        }

    def test_refuses_a_score_that_is_no_number(self) -> None:
        with pytest.raises(BadRequest, match="no number"):
            ScoredRows.from_wire(self.wire(((-0.5, -1.0), (np.nan, -1.0), (-0.5, -1.0))), 1, 3)

    @pytest.mark.parametrize(
        "changes",
        [
            {"start": 2}, {"start": "1"}, {"start": None}, {"top": 0}, {"top": 65}, {"top": 3}, {"top": 2.0},
            {"topIds": [[1, 2]] * 3}, {"topIds": None}, {"topIds": "0x00"}, {"topLogprobs": "0x" + "zz" * 24},
        ],
    )  # fmt: skip
    def test_refuses_what_no_node_should_say(self, changes: dict[str, Any]) -> None:
        with pytest.raises(BadRequest):
            ScoredRows.from_wire({**self.wire(), **changes}, 1, 3)

    @pytest.mark.parametrize(("start", "count"), [(0, 3), (2, 3), (1, 2)])
    def test_refuses_rows_that_do_not_fit(self, start: int, count: int) -> None:
        with pytest.raises(BadRequest):
            ScoredRows.from_wire(self.wire(), start, count)


class TestLoops:
    async def test_a_bug_in_one_step_ends_neither_the_round_nor_the_next(self) -> None:
        done: list[str] = []

        async def broken() -> None:
            raise KeyError("what nobody foresaw")

        async def working() -> None:
            done.append("step")

        loops = Loops(0.01)
        loops.add("broken", broken)
        loops.add("working", working)
        await loops.run_once()
        await loops.run_once()
        assert done == ["step", "step"]
        assert list(loops.problems()) == ["broken"]


class TestSettings:
    MINIMAL = f"""
rpc_url = "http://127.0.0.1:8545"
deployment = "deployment.json"
key = "{SECRET}"
public_url = "http://verifier"
data_dir = "data"
model_dirs = ["model"]
calibration_dir = "calibrations"
"""

    def test_loads_a_minimal_file_with_paths_beside_it(self, tmp_path: Path) -> None:
        path = tmp_path / "verifier.toml"
        path.write_text(self.MINIMAL)
        settings = VerifierSettings.load(path)
        assert settings.deployment == tmp_path / "deployment.json"
        assert settings.model_dirs == (tmp_path / "model",)
        assert settings.replayers == 2

    @pytest.mark.parametrize("name", ["minimal", "complete"])
    def test_loads_the_examples(self, name: str) -> None:
        settings = VerifierSettings.load(EXAMPLES / f"{name}.toml")
        assert settings.model_dirs[0].is_dir()
        # The complete example shows every setting but the development chain's raw key.
        if name == "complete":
            assert settings.model_fields_set == set(type(settings).model_fields) - {"key"}

    @pytest.mark.parametrize("line", ['key_file = "k"', "replayers = 1", "unknown = 1", 'engine_profile = "vllm"'])
    def test_refuses_what_makes_no_sense(self, tmp_path: Path, line: str) -> None:
        path = tmp_path / "verifier.toml"
        path.write_text(self.MINIMAL + line + "\n")
        with pytest.raises(BadRequest):
            VerifierSettings.load(path)

    def test_takes_raw_keys_on_the_development_chain_only(self, tmp_path: Path) -> None:
        path = tmp_path / "verifier.toml"
        path.write_text(self.MINIMAL)
        settings = VerifierSettings.load(path)
        assert service_key(settings, 31337).address == SigningKey.from_hex(SECRET).address
        with pytest.raises(BadRequest):
            service_key(settings, 1)
