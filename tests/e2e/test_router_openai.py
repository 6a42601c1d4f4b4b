"""The unmodified openai package, pointed at the router of a real network."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from typing import Any

import httpx
import openai
import pytest

from retally.devnet.network import Network
from retally.protocol.receipt import JobReceipt

pytestmark = pytest.mark.engine

QUESTION: Any = [{"role": "user", "content": "What does a list comprehension do?"}]


@pytest.fixture
async def client(devnet: Network) -> AsyncIterator[openai.AsyncOpenAI]:
    built = openai.AsyncOpenAI(base_url=f"{devnet.router_url}/v1", api_key=devnet.api_key, max_retries=0, timeout=120)
    yield built
    await built.close()


def extra(answer: Any) -> dict[str, Any]:
    return dict(answer.model_extra["retally"])


async def streamed(client: openai.AsyncOpenAI, **body: Any) -> list[Any]:
    stream = await client.chat.completions.create(messages=QUESTION, stream=True, **body)
    return [chunk async for chunk in stream]


def text_of(chunks: list[Any]) -> str:
    return "".join(choice.delta.content or "" for chunk in chunks for choice in chunk.choices)


class TestChat:
    async def test_streamed_and_plain_give_the_same_text_at_the_same_cost(
        self, client: openai.AsyncOpenAI, devnet: Network
    ) -> None:
        body = {"model": devnet.model, "max_tokens": 48, "temperature": 0.8, "top_p": 0.95, "seed": 17}
        plain = await client.chat.completions.create(messages=QUESTION, **body)
        chunks = await streamed(client, **body)
        assert text_of(chunks) == plain.choices[0].message.content
        costs = [int(JobReceipt.from_wire(extra(c)["receipt"]).fee) for c in chunks if "receipt" in extra(c)]
        assert [str(cost) for cost in costs] == [extra(plain)["cost"]]

    async def test_usage_on_request(self, client: openai.AsyncOpenAI, devnet: Network) -> None:
        chunks = await streamed(client, model=devnet.model, max_tokens=12, stream_options={"include_usage": True})
        assert chunks[-1].usage.completion_tokens <= 12
        assert chunks[-1].usage.prompt_tokens > 0

    async def test_stop_is_cut_off(self, client: openai.AsyncOpenAI, devnet: Network) -> None:
        body = {"model": devnet.model, "max_tokens": 64, "seed": 5}
        whole = (await client.chat.completions.create(messages=QUESTION, **body)).choices[0].message.content or ""
        stop = whole[8:11]
        assert stop
        cut = await client.chat.completions.create(messages=QUESTION, stop=[stop], **body)
        assert cut.choices[0].message.content == whole[: whole.index(stop)]
        assert cut.choices[0].finish_reason == "stop"

    async def test_max_tokens_is_kept_and_reported(self, client: openai.AsyncOpenAI, devnet: Network) -> None:
        answer = await client.chat.completions.create(model=devnet.model, messages=QUESTION, max_tokens=5, seed=1)
        assert answer.usage is not None
        assert answer.usage.completion_tokens <= 5
        assert answer.choices[0].finish_reason in ("length", "stop")

    async def test_n_choices_differ_and_repeat_with_the_seed(self, client: openai.AsyncOpenAI, devnet: Network) -> None:
        body = {"model": devnet.model, "max_tokens": 24, "n": 3, "seed": 11}
        first = await client.chat.completions.create(messages=QUESTION, **body)
        again = await client.chat.completions.create(messages=QUESTION, **body)
        texts = [choice.message.content for choice in first.choices]
        assert len(set(texts)) > 1
        assert texts == [choice.message.content for choice in again.choices]

    async def test_logprobs(self, client: openai.AsyncOpenAI, devnet: Network) -> None:
        answer = await client.chat.completions.create(
            model=devnet.model, messages=QUESTION, max_tokens=6, logprobs=True, top_logprobs=3
        )
        content = answer.choices[0].logprobs.content if answer.choices[0].logprobs else None
        assert content
        assert all(entry.logprob <= 0 and len(entry.top_logprobs) == 3 for entry in content)

    async def test_penalties_and_bias_change_the_answer(self, client: openai.AsyncOpenAI, devnet: Network) -> None:
        body = {"model": devnet.model, "max_tokens": 40, "seed": 3}
        plain = await client.chat.completions.create(messages=QUESTION, **body)
        first = extra(plain)["ids"]["0"][0]
        biased = await client.chat.completions.create(messages=QUESTION, logit_bias={str(first): -100}, **body)
        assert extra(biased)["ids"]["0"][0] != first
        penalised = await client.chat.completions.create(
            messages=QUESTION, presence_penalty=2.0, frequency_penalty=2.0, **body
        )
        assert penalised.choices[0].message.content

    async def test_temperature_zero_repeats_without_a_seed(self, client: openai.AsyncOpenAI, devnet: Network) -> None:
        body = {"model": devnet.model, "max_tokens": 16, "temperature": 0}
        texts = {
            (await client.chat.completions.create(messages=QUESTION, **body)).choices[0].message.content
            for _ in range(2)
        }
        assert len(texts) == 1

    async def test_first_chunk_leaves_before_the_eighth_token(
        self, client: openai.AsyncOpenAI, devnet: Network
    ) -> None:
        # The small model makes eight tokens in some twenty milliseconds: on a busy machine not every stream is quick.
        firsts = [await first_tokens(client, devnet.model) for _ in range(5)]
        assert min(firsts) < 8


async def first_tokens(client: openai.AsyncOpenAI, model: str) -> int:
    """How many tokens the engine had produced when the node sent its first ones."""
    body: dict[str, Any] = {"max_tokens": 120, "extra_body": {"min_tokens": 100}}
    stream = await client.chat.completions.create(model=model, messages=QUESTION, stream=True, **body)
    try:
        async for chunk in stream:
            ids = extra(chunk).get("ids")
            if ids:
                return int(extra(chunk)["outputFrom"]) + len(ids)
    finally:
        await stream.close()
    raise AssertionError("the stream brought no token")


class TestText:
    async def test_plain_and_streamed(self, client: openai.AsyncOpenAI, devnet: Network) -> None:
        body = {"model": devnet.model, "prompt": "A list is", "max_tokens": 16, "seed": 2}
        plain = await client.completions.create(**body)
        stream = await client.completions.create(stream=True, **body)
        text = "".join([choice.text async for chunk in stream for choice in chunk.choices])
        assert text == plain.choices[0].text

    async def test_token_ids_as_prompt_and_logprobs(self, client: openai.AsyncOpenAI, devnet: Network) -> None:
        answer = await client.completions.create(model=devnet.model, prompt=[300, 301, 302], max_tokens=4, logprobs=2)
        assert answer.usage is not None
        assert answer.usage.prompt_tokens == 3
        assert answer.choices[0].logprobs is not None
        assert len(answer.choices[0].logprobs.tokens or []) == answer.usage.completion_tokens


class TestErrors:
    @pytest.mark.parametrize(
        ("change", "status", "code"),
        [
            ({"model": "no/such"}, 404, "model_not_found"),
            ({"temperature": 9}, 400, "unsupported_parameter"),
            ({"frobnicate": True}, 400, "unsupported_parameter"),
            ({"messages": 5}, 400, "bad_request"),
            ({"messages": [{"role": "user", "content": "word " * 1500}]}, 400, "context_length_exceeded"),
        ],
    )
    async def test_bad_requests(self, devnet: Network, change: dict[str, Any], status: int, code: str) -> None:
        body = {"model": devnet.model, "messages": QUESTION, "max_tokens": 4, **change}
        headers = {"authorization": f"Bearer {devnet.api_key}"}
        async with httpx.AsyncClient(base_url=devnet.router_url, timeout=60, trust_env=False) as http:
            answer = await http.post("/v1/chat/completions", content=json.dumps(body).encode(), headers=headers)
        assert (answer.status_code, answer.json()["error"]["code"]) == (status, code)
        assert answer.headers["x-request-id"]

    async def test_bad_key_is_openais_authentication_error(self, devnet: Network) -> None:
        client = openai.AsyncOpenAI(base_url=f"{devnet.router_url}/v1", api_key="nonsense", max_retries=0)
        with pytest.raises(openai.AuthenticationError):
            await client.chat.completions.create(model=devnet.model, messages=QUESTION)
        await client.close()


class TestModels:
    async def test_lists_the_devnets_model(self, client: openai.AsyncOpenAI, devnet: Network) -> None:
        models = await client.models.list()
        assert devnet.model in [model.id for model in models.data]
