"""What answers and replays jobs: vLLM's engine with the sampler's plugin, or the transformers library."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor
from transformers import AutoModelForCausalLM

from evidence_shards import Floats, Job, Replay, Segment
from retally.devnet.engine_server import MAX_CONTEXT, share_cores
from retally.errors import EngineUnavailable
from retally.inference.sampler_rows import Row
from retally.inference.torch_sampler import choose
from retally.inference.vllm_flags import MAX_LOGPROBS, SAMPLER_ARGUMENT, SAMPLER_PLUGIN, engine_environment
from retally.protocol.margins import TOP, Replayed, robust_margins

PAD = 0


@dataclass(frozen=True, slots=True)
class Scores:
    """Raw logprobs under one re-executor: rows of the 64 likeliest tokens, and those of the claimed ones, nats."""

    top_ids: np.ndarray[Any, np.dtype[np.int32]]
    top_logprobs: np.ndarray[Any, np.dtype[np.float32]]
    claimed_logprobs: np.ndarray[Any, np.dtype[np.float32]]


class Runner(Protocol):
    """One loaded model."""

    def answer(self, segments: Sequence[Segment], at_once: int) -> list[tuple[int, ...]]:
        """What each segment samples, without its given tokens."""
        ...

    def score(self, jobs: Sequence[tuple[Job, Sequence[int]]], at_once: int) -> list[Scores]:
        """Each answer's logprobs, from one prefill."""
        ...

    def close(self) -> None:
        """Let the model go."""
        ...


class VllmRunner:
    """vLLM's engine, asked without its HTTP server, which needs seconds to write 64 logprobs a token as text."""

    def __init__(self, model_dir: Path, dtype: str, eos_ids: tuple[int, ...]) -> None:
        self._eos = eos_ids
        os.environ.update(engine_environment({}, cores=",".join(map(str, share_cores(1)[0]))))
        # Imported here: the transformers library can be visited where vLLM can't be loaded.
        from vllm import LLM

        self._engine: Any = LLM(
            model=str(model_dir),
            dtype=dtype,
            # Uncompiled bfloat16 dies on some processors.
            enforce_eager=dtype == "float32",
            max_model_len=MAX_CONTEXT,
            max_logprobs=MAX_LOGPROBS,
            logits_processors=[SAMPLER_PLUGIN],
            generation_config="vllm",
            max_num_seqs=64,
            disable_log_stats=True,
        )

    def close(self) -> None:
        """End the engine's process."""
        self._engine.llm_engine.engine_core.shutdown()

    def answer(self, segments: Sequence[Segment], at_once: int) -> list[tuple[int, ...]]:
        """What each segment samples, so many in a batch."""
        asked = [([*each.job.prompt_ids, *each.given], self._sampling(each)) for each in segments]
        return [tuple(found.outputs[0].token_ids) for found in self._run(asked, at_once)]

    def score(self, jobs: Sequence[tuple[Job, Sequence[int]]], at_once: int) -> list[Scores]:
        """One prefill for each answer."""
        from vllm import SamplingParams

        plain = SamplingParams(temperature=0, max_tokens=1, prompt_logprobs=TOP, detokenize=False, flat_logprobs=True)
        asked = [([*job.prompt_ids, *ids], plain) for job, ids in jobs]
        found = self._run(asked, at_once)
        return [_scores(each.prompt_logprobs, job, ids) for each, (job, ids) in zip(found, jobs, strict=True)]

    def _sampling(self, segment: Segment) -> Any:
        from vllm import SamplingParams

        job, given = segment.job, segment.given
        argument = {
            "params": job.params.to_json(),
            "seed": job.seed.hex(),
            "position": len(given),
            "eos": list(self._eos),
        }
        return SamplingParams(
            temperature=0,
            max_tokens=job.params.max_tokens - len(given),
            stop_token_ids=list(self._eos),
            detokenize=False,
            extra_args={SAMPLER_ARGUMENT: json.dumps(argument)},
        )

    def _run(self, asked: Sequence[tuple[list[int], Any]], at_once: int) -> list[Any]:
        found: list[Any] = []
        for first in range(0, len(asked), at_once):
            part = asked[first : first + at_once]
            prompts = [{"prompt_token_ids": ids} for ids, _ in part]
            found += self._engine.generate(prompts, [params for _, params in part], use_tqdm=False)
        return found


def _scores(flat: Any, job: Job, ids: Sequence[int]) -> Scores:
    """The rows of an answer's tokens: first the claimed token, then the likeliest."""
    starts = flat.start_indices[len(job.prompt_ids) :]
    if len(starts) != len(ids) or len(flat.token_ids) - starts[-1] != TOP + 1:
        raise EngineUnavailable("the engine returned no prompt logprobs")
    tokens = np.array(flat.token_ids[starts[0] :], dtype=np.int32).reshape(len(ids), TOP + 1)
    logprobs = np.array(flat.logprobs[starts[0] :], dtype=np.float32).reshape(len(ids), TOP + 1)
    if tokens[:, 0].tolist() != list(ids):
        raise EngineUnavailable("the engine scored other tokens than those asked for")
    return Scores(tokens[:, 1:], logprobs[:, 1:], logprobs[:, 0])


class ReferenceRunner:
    """The model in the transformers library: other kernels than the engine's."""

    def __init__(self, model_dir: Path, dtype: str, eos_ids: tuple[int, ...]) -> None:
        self._eos = eos_ids
        self._model: Any = AutoModelForCausalLM.from_pretrained(model_dir, dtype=getattr(torch, dtype)).eval()

    def answer(self, segments: Sequence[Segment], at_once: int) -> list[tuple[int, ...]]:
        """What each segment samples, in batches."""
        found: list[tuple[int, ...]] = []
        for first in range(0, len(segments), at_once):
            found += self._batch(segments[first : first + at_once])
        return found

    def score(self, jobs: Sequence[tuple[Job, Sequence[int]]], at_once: int) -> list[Scores]:
        """One prefill for each answer."""
        return [self._score(job, ids) for job, ids in jobs]

    def close(self) -> None:
        """Nothing runs elsewhere."""

    def _batch(self, segments: Sequence[Segment]) -> list[tuple[int, ...]]:
        rows = [Row(s.job.params, s.job.seed, self._eos, s.job.prompt_ids, s.given, []) for s in segments]
        prompts = [[*row.prompt_ids, *row.prefix_ids] for row in rows]
        width = max(map(len, prompts))
        fresh = torch.tensor([[PAD] * (width - len(ids)) + ids for ids in prompts])
        mask = torch.tensor([[0] * (width - len(ids)) + [1] * len(ids) for ids in prompts])
        positions = (mask.cumsum(1) - 1).clamp_min(0)
        past: Any = None
        open_rows = set(range(len(rows)))
        while open_rows:
            logits, past = self._step(fresh, mask, positions, past)
            chosen = choose(logits, rows)
            for index in list(open_rows):
                token = int(chosen[index])
                list_of(rows[index]).append(token)
                if token in self._eos or rows[index].position >= rows[index].params.max_tokens:
                    open_rows.remove(index)
            fresh = chosen[:, None]
            mask = torch.cat((mask, torch.ones(len(rows), 1, dtype=mask.dtype)), 1)
            positions = positions[:, -1:] + 1
        return [tuple(row.output_ids) for row in rows]

    def _step(self, ids: Tensor, mask: Tensor, positions: Tensor, past: Any) -> tuple[Tensor, Any]:
        with torch.inference_mode():
            result = self._model(
                input_ids=ids, attention_mask=mask, position_ids=positions, past_key_values=past, use_cache=True
            )
        return result.logits[:, -1].float(), result.past_key_values

    def _score(self, job: Job, ids: Sequence[int]) -> Scores:
        with torch.inference_mode():
            whole = torch.tensor([[*job.prompt_ids, *ids]])
            logprobs = self._model(whole).logits[0, len(job.prompt_ids) - 1 : -1].float().log_softmax(-1)
            claimed = logprobs.gather(1, torch.tensor(list(ids))[:, None])[:, 0]
            best = logprobs.topk(TOP, dim=-1)
        return Scores(best.indices.numpy().astype(np.int32), best.values.numpy(), claimed.numpy())


def list_of(row: Row) -> list[int]:
    """A row's growing output."""
    if not isinstance(row.output_ids, list):
        raise TypeError("a row that grows needs a list")
    return row.output_ids


def replay_of(job: Job, ids: Sequence[int], scores: Scores, eos_ids: tuple[int, ...]) -> Replay:
    """The margins of one answer: from the re-executor's own scores and the claimed ids, and nothing the node says."""
    margins: Floats = robust_margins(Replayed(job.params, job.seed, job.prompt_ids, (), ids, eos_ids), scores)
    return Replay(margins, scores.claimed_logprobs.astype(np.float64))
