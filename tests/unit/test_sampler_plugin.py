"""The vLLM plugin: it follows requests through the batch and refuses malformed arguments."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
import torch
from tests.sampler_plugin import new_sampler
from vllm import SamplingParams
from vllm.v1.sample.logits_processor import BatchUpdate, MoveDirectionality

from retally.inference.vllm_flags import SAMPLER_ARGUMENT, engine_arguments, engine_environment
from retally.inference.vllm_sampler import RetallySampler
from retally.protocol.params import JobParams
from retally.protocol.sampler import sample_token

PARAMS = JobParams(max_tokens=64, template_date="2026-01-01", frequency_penalty=500_000)
VOCABULARY = 64


def sampling(key: int = 1, position: int = 0, **changes: Any) -> SamplingParams:
    argument = {"params": PARAMS.to_json(), "seed": bytes([key] * 32).hex(), "position": position, "eos": [1]}
    argument["grammar"] = ""
    argument |= changes
    return SamplingParams(temperature=0, extra_args={SAMPLER_ARGUMENT: json.dumps(argument)})


def update(size: int, added: Any = (), removed: Any = (), moved: Any = ()) -> BatchUpdate:
    return BatchUpdate(batch_size=size, added=added, removed=removed, moved=moved)


@pytest.fixture
def sampler() -> RetallySampler:
    return new_sampler()


@pytest.fixture
def logits() -> torch.Tensor:
    return torch.tensor(np.random.default_rng(3).normal(0, 2, (3, VOCABULARY)).astype(np.float32))


def expected(logits: torch.Tensor, row: int, seed: int, prompt: list[int], answer: list[int]) -> int:
    return sample_token(logits[row].numpy(), PARAMS, bytes([seed] * 32), len(answer), prompt, answer, [1])


class TestBatch:
    def test_names_one_token_and_leaves_foreign_rows_alone(self, sampler: RetallySampler, logits: torch.Tensor) -> None:
        sampler.update_state(
            update(
                3,
                [(0, sampling(5), [8, 9], []), (1, SamplingParams(temperature=0), [8], []), (2, sampling(6), [8], [])],
            )
        )
        out = sampler.apply(logits.clone())
        assert torch.equal(out[1], logits[1])
        assert int(out[0].argmax()) == expected(logits, 0, 5, [8, 9], [])
        assert (out != logits).sum(1).tolist() == [1, 0, 1]
        assert int(out[2].argmax()) == expected(logits, 2, 6, [8], [])

    def test_reads_the_engines_growing_list(self, sampler: RetallySampler, logits: torch.Tensor) -> None:
        output: list[int] = []
        sampler.update_state(update(1, [(0, sampling(5), [8], output)]))
        for _ in range(3):
            wanted = expected(logits, 0, 5, [8], output)
            assert int(sampler.apply(logits[:1].clone()).argmax()) == wanted
            output.append(wanted)
            sampler.update_state(None)

    def test_a_continuation_takes_its_prefix_from_the_prompt(
        self, sampler: RetallySampler, logits: torch.Tensor
    ) -> None:
        sampler.update_state(update(1, [(0, sampling(5, position=2), [8, 30, 31], [32])]))
        assert int(sampler.apply(logits[:1].clone()).argmax()) == expected(logits, 0, 5, [8], [30, 31, 32])

    def test_follows_moves_swaps_and_removals(self, sampler: RetallySampler, logits: torch.Tensor) -> None:
        sampler.update_state(update(2, [(0, sampling(5), [8], []), (1, sampling(6), [8], [])]))
        sampler.update_state(update(2, moved=[(0, 1, MoveDirectionality.SWAP)]))
        assert int(sampler.apply(logits.clone())[0].argmax()) == expected(logits, 0, 6, [8], [])
        sampler.update_state(update(1, removed=[0], moved=[(1, 0, MoveDirectionality.UNIDIRECTIONAL)]))
        out = sampler.apply(logits.clone())
        assert int(out[0].argmax()) == expected(logits, 0, 5, [8], [])
        assert torch.equal(out[1], logits[1])

    def test_a_new_request_replaces_the_one_in_its_row(self, sampler: RetallySampler, logits: torch.Tensor) -> None:
        sampler.update_state(update(1, [(0, sampling(5), [8], [])]))
        sampler.update_state(update(1, [(0, SamplingParams(temperature=0), [8], [])]))
        assert torch.equal(sampler.apply(logits.clone()), logits)

    def test_is_not_argmax_invariant(self, sampler: RetallySampler) -> None:
        assert sampler.is_argmax_invariant() is False


class TestArguments:
    def test_accepts_its_own_and_none(self) -> None:
        RetallySampler.validate_params(sampling())
        RetallySampler.validate_params(SamplingParams())

    @pytest.mark.parametrize("argument", ["{", "[]", "{}", 7, json.dumps({"params": {}, "seed": "", "position": 0})])
    def test_refuses_a_malformed_argument(self, argument: object) -> None:
        params = SamplingParams(temperature=0, extra_args={SAMPLER_ARGUMENT: argument})
        with pytest.raises(ValueError, match="malformed"):
            RetallySampler.validate_params(params)

    @pytest.mark.parametrize(
        "changes",
        [
            {"position": -1},
            {"seed": "zz"},
            {"seed": "00"},
            {"eos": None},
            {"params": {}},
            {"grammar": None},
            {"grammar": "{}", "eos": []},
        ],
    )
    def test_refuses_a_wrong_value(self, changes: dict[str, Any]) -> None:
        with pytest.raises(ValueError, match="malformed"):
            RetallySampler.validate_params(sampling(**changes))

    def test_refuses_an_engine_that_would_sample_too(self) -> None:
        params = sampling()
        params.temperature = 1.0
        with pytest.raises(ValueError, match="temperature 0"):
            RetallySampler.validate_params(params)


class TestFlags:
    def test_loads_the_plugin_on_the_first_runner(self) -> None:
        arguments = engine_arguments("/models/m", "m", 8000)
        assert arguments[arguments.index("--logits-processors") + 1].endswith("vllm_sampler:RetallySampler")
        assert arguments[arguments.index("--middleware") + 1].endswith("vllm_score_route.ScoreRoute")
        assert engine_environment({})["VLLM_USE_V2_MODEL_RUNNER"] == "0"

    def test_a_gpu_keeps_its_own_dtype(self) -> None:
        assert "--dtype" not in engine_arguments("/models/m", "m", 8000, is_cpu=False)
