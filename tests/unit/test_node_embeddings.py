"""A node for embeddings: what it takes, what it signs, and what a judge makes of it (R-73 to R-76)."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import pytest
from pydantic import ValidationError
from tests.fakes import FakeEmbedder
from tests.fakes_node import VECTOR_SIZE, Customer, embedding_changes, node_settings, open_world
from tests.fakes_node import World as NodeWorld

from retally.errors import BadRequest, RetallyError
from retally.protocol.embeddings import ids_of_bytes, params_of_embeddings
from retally.protocol.judgement import judge_without_replay
from retally.protocol.merkle import output_root
from retally.protocol.wire import AnswerBundle
from retally_node.api import create_app
from retally_node.engine_start import check_endpoint

TEXTS = ["count", "count again"]


def engine_of(embedder: NodeWorld) -> FakeEmbedder:
    assert isinstance(embedder.engine, FakeEmbedder)
    return embedder.engine


async def served(embedder: NodeWorld, times: int = 1) -> list[dict[str, Any]]:
    """What the node adds to its one frame, each time that the same job is asked for."""
    params = params_of_embeddings(VECTOR_SIZE, len(TEXTS))
    wanted: dict[str, Any] = {"prompt": {"inputs": TEXTS}, "params": params, "audit_consent": False}
    submission = (await Customer().submission(embedder.node, stream=True, **wanted)).to_wire()
    shown = []
    async with httpx.AsyncClient(transport=httpx.ASGITransport(create_app(embedder.node)), base_url="http://n") as http:
        for _ in range(times):
            answer = await http.post("/retally/v1/jobs", json=submission)
            (frame,) = [line for line in answer.text.split("\n") if '"receipt"' in line]
            shown.append(json.loads(frame.removeprefix("data: "))["retally"])
            # Another engine, or the same one another day, would make others.
            engine_of(embedder).factor = 2.0
    return shown


class TestNode:
    async def _refused(self, embedder: NodeWorld, **changes: Any) -> RetallyError:
        customer = Customer()
        given: dict[str, Any] = {
            "prompt": {"inputs": TEXTS},
            "params": params_of_embeddings(VECTOR_SIZE, 2),
            "stream": True,
            "audit_consent": False,
        }
        with pytest.raises(RetallyError) as refused:
            await embedder.node.admission.admit(await customer.submission(embedder.node, **{**given, **changes}))
        return refused.value

    async def test_takes_no_completion(self, embedder: NodeWorld) -> None:
        refused = await self._refused(embedder, prompt=None, params=Customer().params())
        assert refused.code == "endpoint_not_served"

    async def test_a_node_for_completions_takes_no_embeddings(self, tmp_path: Path) -> None:
        other = await open_world(tmp_path / "other")
        assert (await self._refused(other)).code == "endpoint_not_served"
        await other.close()

    async def test_r75_takes_no_request_that_promises_audit(self, embedder: NodeWorld) -> None:
        assert (await self._refused(embedder, audit_consent=True)).code == "audit_not_possible"

    @pytest.mark.parametrize(
        ("changes", "param"),
        [
            ({"params": params_of_embeddings(VECTOR_SIZE, 3)}, "maxTokens"),
            ({"params": params_of_embeddings(5, 2)}, "dimensions"),
            ({"prompt": {"promptIds": [5, 6]}}, "prompt"),
            ({"stream": False}, "stream"),
            ({"n": 2}, "n"),
        ],
    )
    async def test_r73_holds_a_request_to_its_inputs(
        self, embedder: NodeWorld, changes: dict[str, Any], param: str
    ) -> None:
        assert (await self._refused(embedder, **changes)).param == param

    async def test_r74_the_receipt_commits_to_each_component(self, embedder: NodeWorld) -> None:
        (shown,) = await served(embedder)
        (kept,) = embedder.node.ledger.jobs.receipts(bytes.fromhex(shown["jobId"][2:]))
        rows = await FakeEmbedder().embed(embedder.node.chat_format.render_inputs({"inputs": TEXTS}), VECTOR_SIZE)
        ids = ids_of_bytes(rows.tobytes())
        assert shown["ids"] == ids
        assert kept.receipt.output_root == output_root(0, ids, [0] * len(ids))
        assert kept.receipt.output_root != output_root(0, [ids[0] ^ 1, *ids[1:]], [0] * len(ids))

    async def test_a_job_that_is_asked_for_again_shows_the_vectors_it_signed(self, embedder: NodeWorld) -> None:
        first, again = await served(embedder, times=2)
        assert first["receipt"] == again["receipt"]
        assert first["ids"] == again["ids"]
        assert engine_of(embedder).embedded == len(TEXTS)

    def test_r76_a_profile_is_for_embeddings_or_for_completions(self, tmp_path: Path) -> None:
        changes = {name: value for name, value in embedding_changes(tmp_path).items() if name != "make_engine"}
        check_endpoint(node_settings(tmp_path, **changes))
        with pytest.raises(BadRequest, match="a profile for embeddings"):
            check_endpoint(node_settings(tmp_path, profile_file=changes["profile_file"]))
        changes["profile_file"].write_text('{"name": "tiny"}')
        with pytest.raises(BadRequest, match="a profile for completions"):
            check_endpoint(node_settings(tmp_path, **changes))

    @pytest.mark.parametrize("change", [{"price_out": 1}, {"profile_file": None}])
    def test_settings_that_could_not_serve_are_refused(self, tmp_path: Path, change: dict[str, Any]) -> None:
        changes = {name: value for name, value in embedding_changes(tmp_path).items() if name != "make_engine"}
        with pytest.raises(ValidationError):
            node_settings(tmp_path, **{**changes, **change})


class TestJudgement:
    async def test_r75_is_inconclusive_and_no_broken_rule(self, embedder: NodeWorld) -> None:
        bundle = await _bundle(embedder)
        for shown in (bundle, replace(bundle, request=replace(bundle.request, audit_consent=True))):
            judgement = judge_without_replay(shown, embedder.node.chat_format.render, embedder.node.chat_format.eos_ids)
            assert judgement is not None
            assert judgement.deviation is None
            assert (judgement.evidence.log_e, judgement.evidence.calibrated) == (0.0, False)


async def _bundle(embedder: NodeWorld) -> AnswerBundle:
    (shown,) = await served(embedder)
    job = embedder.node.ledger.jobs.job(bytes.fromhex(shown["jobId"][2:]))
    assert job is not None
    (kept,) = embedder.node.ledger.jobs.receipts(job.job_id)
    offer = embedder.node.ledger.money.offer(kept.receipt.offer_hash)
    assert offer is not None
    return AnswerBundle(
        receipt=kept.receipt,
        signature=kept.signature,
        index=0,
        leaf_count=1,
        proof=(),
        request=job.request,
        request_signature=job.signature,
        prompt=job.prompt,
        params=job.params,
        prompt_ids=job.prompt_ids,
        prefix_ids=(),
        output_ids=tuple(kept.output_ids),
        output_q=tuple(kept.quantised),
        offer=offer[0],
        offer_signature=offer[1],
    )
