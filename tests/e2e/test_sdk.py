"""The client on a whole network: pays, counts, checks, and the chain agrees."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import openai
import pytest
from tests.serve_app import serve

from retally import (
    AsyncClient,
    Client,
    PaymentTerms,
    SigningKey,
    SpendingLimitExceeded,
    Wallet,
    result_of,
)
from retally.chain.connection import Chain
from retally.chain.deployment import Deployment
from retally.devnet.network import Network
from retally.inference.chat_format import ChatFormat
from retally.job_evidence import PromptRenderer
from retally.protocol.encoding import Address
from retally.protocol.voucher import ChannelId
from retally.proxy import create_app

QUESTION: Any = [{"role": "user", "content": "What does a list comprehension do?"}]

pytestmark = pytest.mark.engine


@pytest.fixture(scope="module")
def renderer(devnet: Network) -> PromptRenderer:
    return ChatFormat.load(devnet.model_dir).render


@pytest.fixture
def keyed(devnet: Network, renderer: PromptRenderer, tmp_path: Path) -> Iterator[Client]:
    with Client(
        devnet.api_key, devnet.router_url, deployment=devnet.deployment_path, renderer=renderer, home=tmp_path
    ) as client:
        yield client


@pytest.fixture
def wallet(devnet: Network, tmp_path: Path) -> Iterator[Wallet]:
    opened = Wallet(devnet.payer.key, Deployment.load(devnet.deployment_path).domain, tmp_path)
    yield opened
    opened.close()


@pytest.fixture
def paying(devnet: Network, wallet: Wallet, renderer: PromptRenderer, tmp_path: Path) -> Iterator[Client]:
    with Client(base_url=devnet.router_url, wallet=wallet, renderer=renderer, home=tmp_path) as client:
        yield client


def assert_all_true(answer: object) -> None:
    checks = result_of(answer).checks
    assert {check.name: (check.passed, check.detail) for check in checks if check.passed is not True} == {}


class TestApiKey:
    def test_a_plain_answer_passes_every_check(self, devnet: Network, keyed: Client) -> None:
        answer = keyed.chat.completions.create(model=devnet.model, messages=QUESTION, max_tokens=40, seed=1)
        assert answer.choices[0].message.content
        assert result_of(answer).cost > 0
        assert_all_true(answer)

    def test_a_stream_passes_every_check_and_costs_the_same(self, devnet: Network, keyed: Client) -> None:
        request: Any = {"model": devnet.model, "messages": QUESTION, "max_tokens": 40, "seed": 1}
        plain = keyed.chat.completions.create(**request)
        stream = keyed.chat.completions.create(stream=True, **request)
        text = "".join(choice.delta.content or "" for chunk in stream for choice in chunk.choices)
        assert text == plain.choices[0].message.content
        assert result_of(stream).cost == result_of(plain).cost
        assert_all_true(stream)

    def test_every_choice_of_a_text_completion_is_checked(self, devnet: Network, keyed: Client) -> None:
        answer = keyed.completions.create(model=devnet.model, prompt="A tuple is", n=2, max_tokens=24)
        assert len(result_of(answer).receipts) == 2
        assert_all_true(answer)

    async def test_the_asynchronous_client_does_the_same(
        self, devnet: Network, renderer: PromptRenderer, tmp_path: Path
    ) -> None:
        async with AsyncClient(
            devnet.api_key, devnet.router_url, deployment=devnet.deployment_path, renderer=renderer, home=tmp_path
        ) as client:
            answers = await asyncio.gather(
                *[
                    client.chat.completions.create(model=devnet.model, messages=QUESTION, max_tokens=16)
                    for _ in range(4)
                ]
            )
        for answer in answers:
            assert_all_true(answer)


class TestOwnKey:
    def test_a_plain_answer_is_paid_and_checked(self, devnet: Network, paying: Client) -> None:
        assert_all_true(paying.chat.completions.create(model=devnet.model, messages=QUESTION, max_tokens=40))

    def test_a_stream_is_paid_by_own_count(self, devnet: Network, paying: Client, wallet: Wallet) -> None:
        stream = paying.chat.completions.create(model=devnet.model, messages=QUESTION, max_tokens=80, stream=True)
        list(stream)
        result = result_of(stream)
        assert_all_true(stream)
        assert result.payment_error is None
        assert result.voucher_error is None
        line = wallet.line(Address(str(result.node)))
        assert line.closed == result.cost
        assert line.promised >= line.closed

    def test_a_cancelled_stream_is_settled_before_the_next_job(
        self, devnet: Network, paying: Client, wallet: Wallet
    ) -> None:
        stream = paying.chat.completions.create(model=devnet.model, messages=QUESTION, max_tokens=200, stream=True)
        for _, chunk in zip(range(6), stream, strict=False):
            assert chunk.choices
        stream.close()
        node = result_of(stream).node
        for _ in range(12):
            answer = paying.chat.completions.create(model=devnet.model, messages=QUESTION, max_tokens=8)
            assert_all_true(answer)
            if not list(wallet.stale(Address(str(node)))):
                break
        assert not list(wallet.stale(Address(str(node))))

    def test_the_chain_collects_exactly_what_was_counted(self, devnet: Network, paying: Client, wallet: Wallet) -> None:
        costs: dict[str, int] = {}
        for _ in range(3):
            result = result_of(paying.chat.completions.create(model=devnet.model, messages=QUESTION, max_tokens=24))
            costs[str(result.node)] = costs.get(str(result.node), 0) + result.cost

        async def collected() -> dict[str, int]:
            await devnet.settle_all()
            async with Chain(devnet.rpc_url, Deployment.load(devnet.deployment_path)) as chain:
                channels = {node: ChannelId(wallet.payer, wallet.signer, Address(node), wallet.lane) for node in costs}
                return {node: await chain.escrow.channel(channel) for node, channel in channels.items()}

        assert asyncio.run(collected()) == costs

    def test_a_limit_stops_before_anything_is_promised(self, devnet: Network, wallet: Wallet, tmp_path: Path) -> None:
        client = Client(base_url=devnet.router_url, wallet=wallet, home=tmp_path, spending_limit=10)
        with client, pytest.raises(SpendingLimitExceeded):
            client.chat.completions.create(model=devnet.model, messages=QUESTION)
        assert not list(wallet.stale())

    def test_an_unknown_payer_is_told_to_deposit(self, devnet: Network, tmp_path: Path) -> None:
        stranger = Wallet(SigningKey.generate(), Deployment.load(devnet.deployment_path).domain, tmp_path)
        terms = PaymentTerms(retries=0)
        with (
            Client(base_url=devnet.router_url, wallet=stranger, home=tmp_path, terms=terms) as client,
            pytest.raises(openai.APIStatusError) as refused,
        ):
            client.chat.completions.create(model=devnet.model, messages=QUESTION)
        assert (refused.value.status_code, refused.value.code) == (402, "insufficient_funds")


class TestProxy:
    def test_the_unmodified_openai_package_pays_with_ones_own_key(
        self, devnet: Network, paying: Client, wallet: Wallet
    ) -> None:
        with (
            serve(create_app(paying.payment, devnet.router_url)) as url,
            openai.OpenAI(api_key="any", base_url=url + "/v1") as client,
        ):
            stream = client.chat.completions.create(
                model=devnet.model,
                messages=QUESTION,
                max_tokens=24,
                stream=True,
                stream_options={"include_usage": True},
            )
            usage = [chunk.usage for chunk in stream if chunk.usage][-1]
            plain = client.completions.create(model=devnet.model, prompt="A dict maps", max_tokens=8)
        assert usage.completion_tokens > 0
        assert plain.choices[0].text
        assert not list(wallet.stale())
