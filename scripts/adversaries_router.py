"""The play of a router that favours its own node, beside an honest one over the same network."""

from __future__ import annotations

import sys
from collections import Counter
from pathlib import Path
from typing import Any

from openai import APIError, AsyncOpenAI

from adversaries_court import check_honest
from adversaries_stage import MAX_TOKENS, Stage
from demo_prompts import draw_prompts
from retally.devnet.api_key import create_api_key
from retally.devnet.configs import router_settings, write_config
from retally.devnet.keys import derive_key
from retally.devnet.options import NodeSpec
from retally.devnet.parties import Party, prepare_router
from retally.devnet.ports import HOST, free_port
from retally.devnet.processes import Service
from retally.devnet.readiness import wait_answers, wait_routable
from retally.devnet.redis_server import RedisServer
from retally.devnet.tools import repo_root

LIAR = repo_root() / "tests" / "adversaries" / "selfish_router.py"
NAME = "selfish"
JOBS = 16


async def selfish_router(home: Path, seed: int, engine_url: str) -> dict[str, Any]:
    """The same jobs through the honest router and through the selfish one: who serves them."""
    async with Stage(home, seed, [NodeSpec(name="own")], engine_url) as stage:
        own = stage.node("own").address
        redis = RedisServer(stage.net.logs / NAME, mark=stage.net.options.mark)
        await redis.start()
        url = await start_router(stage, redis.url, own)
        key = await create_api_key(url, stage.net.payer, stage.chain, stage.net.anvil, stage.net.options.key_cap)
        await wait_routable(url, stage.net.model, 1, stage.net.services[NAME])
        fair, _ = await ask(stage, stage.net.router_url, stage.net.api_key)
        selfish, _ = await ask(stage, url, key)
        _, refusal = await ask(stage, url, key, only=stage.honest[0].address)
        await stage.collect()
        await stage.until(lambda books: books.unaudited() == 0, "every commit to be audited")
        control = await check_honest(stage)
        await redis.stop()
    return {
        "by": "nobody",
        "honestRouter": fair[own],
        "selfishRouter": selfish[own],
        "jobs": JOBS,
        "refusal": refusal,
        "control": control,
        "outcome": f"its own node gets {selfish[own]} of {JOBS} jobs, {fair[own]} of {JOBS} through the honest router;"
        f" who asks for another is told: {refusal}",
    }


async def start_router(stage: Stage, redis_url: str, own: str) -> str:
    """Bond and start the selfish router."""
    net = stage.net
    party = Party(derive_key(stage.seed, NAME), net.anvil, stage.chain)
    await prepare_router(party)
    port = free_port()
    settings = router_settings(
        net.options, port=port, rpc_url=net.rpc_url, deployment=net.deployment_path, redis_url=redis_url
    )
    settings |= {"key": "0x" + party.key.secret.hex()}
    config = write_config(net.home / f"{NAME}.toml", settings)
    command = [sys.executable, str(LIAR), "--config", str(config), "--own", own]
    service = Service(NAME, command, net.logs / f"{NAME}.log", mark=net.options.mark)
    net.services[NAME] = service
    service.start()
    url = f"http://{HOST}:{port}"
    await wait_answers(f"{url}/healthz", service)
    return url


async def ask(stage: Stage, url: str, key: str, only: str | None = None) -> tuple[Counter[str], str]:
    """One job after the other; who served them, and the last refusal."""
    served: Counter[str] = Counter()
    refusal = ""
    order = {"provider": {"only": [only]}} if only else {}
    async with AsyncOpenAI(api_key=key, base_url=f"{url}/v1", max_retries=0, timeout=120) as client:
        for question, client_seed in draw_prompts(stage.seed, 1 if only else JOBS):
            try:
                answer = await client.chat.completions.create(
                    model=stage.net.model,
                    messages=[{"role": "user", "content": question}],
                    max_tokens=MAX_TOKENS // 4,
                    seed=client_seed,
                    extra_body=order,
                )
                served[str((answer.model_extra or {})["retally"]["node"])] += 1
            except APIError as error:
                refusal = str(error)[:200]
    return served, refusal
