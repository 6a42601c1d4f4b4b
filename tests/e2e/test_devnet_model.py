"""The devnet's model speaks in words it has read, ends its answers and is not a table of them."""

from __future__ import annotations

import asyncio
import gzip
import json
import random
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from retally.inference.chat_format import ChatFormat
from retally.inference.engine import EngineSampling
from retally.inference.vllm_engine import VllmEngine
from retally.protocol.params import JobParams

pytestmark = pytest.mark.engine

ANSWERS = 50


@dataclass(frozen=True)
class Answer:
    """What the model said, under its own default sampling."""

    text: str
    finish: str | None
    scores: Any


def evaluation(model_dir: Path, name: str) -> Any:
    return json.loads(gzip.decompress((model_dir / "evaluation" / f"{name}.json.gz").read_bytes()))


@pytest.fixture(scope="module")
def answers(engine_url: str, model_dir: Path) -> list[Answer]:
    chat = ChatFormat.load(model_dir)
    defaults = json.loads((model_dir / "generation_config.json").read_text())
    params = JobParams(
        max_tokens=300,
        template_date="2026-01-01",
        temperature=round(defaults["temperature"] * 1_000_000),
        top_p=round(defaults["top_p"] * 1_000_000),
    )
    asked = sorted({chat_[-2][1] for chat_ in evaluation(model_dir, "held_out") if len(chat_) == 2})

    async def ask(engine: VllmEngine, question: str, number: int) -> Answer:
        prompt = chat.render({"messages": [{"role": "user", "content": question}]}, "2026-01-01")
        sampling = EngineSampling(params=params, seed=bytes([number] * 32), eos_ids=chat.eos_ids, max_new_tokens=300)
        chunks = [chunk async for chunk in engine.generate(prompt, sampling)]
        ids = [token for chunk in chunks for token in chunk.ids]
        scores = await engine.score([*prompt, *ids], len(prompt))
        return Answer(chat.decode(ids), chunks[-1].finish_reason, scores)

    async def ask_all() -> list[Answer]:
        engine = VllmEngine(engine_url, "retally/devnet-4m")
        questions = random.Random(3).sample(asked, ANSWERS)
        said = await asyncio.gather(*(ask(engine, question, number) for number, question in enumerate(questions)))
        await engine.close()
        return list(said)

    return asyncio.run(ask_all())


def test_speaks_in_words_it_has_read(answers: list[Answer], model_dir: Path) -> None:
    known = set(evaluation(model_dir, "words"))
    words = [word.lower() for answer in answers for word in re.findall(r"[A-Za-z]+", answer.text)]
    assert len(words) > 10 * ANSWERS
    assert sum(word in known for word in words) / len(words) >= 0.95


def test_ends_its_answers_itself(answers: list[Answer]) -> None:
    assert sum(answer.finish == "stop" for answer in answers) / ANSWERS >= 0.9


def test_is_undecided_enough_to_be_sampled(answers: list[Answer]) -> None:
    logprobs = np.concatenate([answer.scores.top_logprobs for answer in answers]).astype(np.float64)
    assert float((-np.exp(logprobs) * logprobs).sum(axis=1).mean()) >= 1.0


def test_is_small_enough_to_ship(model_dir: Path) -> None:
    assert sum(path.stat().st_size for path in model_dir.rglob("*") if path.is_file()) < 10_000_000
