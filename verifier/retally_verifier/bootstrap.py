"""The composition root: the only place that knows every adapter."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Coroutine, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import uvicorn

from retally.chain.calibrations import Calibrations
from retally.chain.clock import Clock
from retally.chain.connection import Chain
from retally.chain.deployment import Deployment
from retally.chain.recursion import bound_recursion
from retally.chain.transactions import TxSender
from retally.errors import BadRequest, Conflict, RetallyError
from retally.inference.chat_format import ChatFormat
from retally.inference.model_files import ModelFiles
from retally.inference.profile_files import exact_profiles
from retally.inference.vllm_engine import VllmEngine
from retally.keep_alive import SERVER_SECONDS
from retally.keystore import service_key
from retally.node_client import NodeClient
from retally.protocol.eip712 import SigningKey
from retally.protocol.encoding import Bytes32, parse_bytes32
from retally_verifier.api import create_app
from retally_verifier.audit_commit import CommitAuditor
from retally_verifier.challenge_silence import SilenceChallenger
from retally_verifier.collect_pay import PayCollector
from retally_verifier.drift_guard import EVERY_SECONDS, DriftGuard
from retally_verifier.fetch_answer import AnswerFetcher
from retally_verifier.judge_point import PointJudge
from retally_verifier.loops import Loops
from retally_verifier.metrics import VerifierMetrics
from retally_verifier.open_case import CaseOpener
from retally_verifier.point_stream import PointStream
from retally_verifier.replay import Replayer
from retally_verifier.report_verdicts import VerdictReporter
from retally_verifier.second_look import OwnModel, SecondLook
from retally_verifier.settings import VerifierSettings
from retally_verifier.sharing import first_of, leases, open_redis, open_work, worker
from retally_verifier.store import Store
from retally_verifier.watch_chain import ChainWatch

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Verifier:
    """A verifier put together."""

    settings: VerifierSettings
    key: SigningKey
    store: Store
    loops: Loops
    cases: CaseOpener
    clock: Clock


@dataclass(frozen=True, slots=True)
class Models:
    """What is known of the models that are audited: by model id their names, and renderer and tokenizer."""

    names: Mapping[Bytes32, str]
    formats: Mapping[Bytes32, ChatFormat]

    @classmethod
    def load(cls, model_dirs: tuple[Path, ...]) -> Models:
        """Those of these folders."""
        names, formats = {}, {}
        for folder in model_dirs:
            files = ModelFiles.load(folder)
            # Another tokenizer or template would make every honest prompt a mismatch.
            files.check_unchanged()
            names[files.model_id] = files.name
            formats[files.model_id] = ChatFormat.load(folder)
        return cls(names, formats)


def known_calibrations(settings: VerifierSettings, chain: Chain) -> Calibrations:
    """The calibrations of the folder, as far as the Registry has them."""
    calibrations = Calibrations(chain.registry)
    log.info("%d calibrations", calibrations.load(settings.calibration_dir))
    return calibrations


@asynccontextmanager
async def second_look(
    settings: VerifierSettings, store: Store, models: Models, calibrations: Calibrations
) -> AsyncIterator[SecondLook | None]:
    """The verifier's own engine, if it has one; audits go on while it is down, and no case is opened."""
    url, named = settings.engine_url, settings.engine_profile
    profile = None if named is None else parse_bytes32("engine_profile", named)
    if url is None:
        yield None
        return
    async with AsyncExitStack() as stack:
        engines = {}
        for model_id, name in models.names.items():
            engines[model_id] = engine = VllmEngine(url, name)
            stack.push_async_callback(engine.close)
            try:
                await engine.served()
            except RetallyError as error:
                log.warning("no case about %s is opened until its engine answers: %s", name, error.message)
        own = {
            model_id: OwnModel(engine, models.formats[model_id], engine.identity)
            for model_id, engine in engines.items()
        }
        yield SecondLook(store, own, calibrations, url, profile, exact_profiles(settings.profile_files))


def point_judge(
    settings: VerifierSettings,
    chain: Chain,
    key: SigningKey,
    store: Store,
    client: NodeClient,
    models: Models,
    calibrations: Calibrations,
) -> PointJudge:
    """What judges points: it reads the chain and pays re-executors, and sends no transaction."""
    replayer = Replayer(
        store,
        client,
        chain.registry,
        calibrations,
        key,
        chain.domain,
        chain.clock,
        lane=settings.lane,
        replayers=settings.replayers,
        most_replayers=settings.most_replayers,
        at_once=settings.at_once,
        max_price=settings.max_price,
        exact=exact_profiles(settings.profile_files),
    )
    fetcher = AnswerFetcher(store, client, key, chain.clock)
    return PointJudge(chain.domain, fetcher, replayer, models.formats)


@asynccontextmanager
async def open_verifier(settings: VerifierSettings) -> AsyncIterator[Verifier]:
    """Builds a verifier and takes it down again."""
    bound_recursion()
    deployment = Deployment.load(settings.deployment)
    key = service_key(settings, deployment.chain_id)
    client = NodeClient(settings.request_seconds)
    store = Store(settings.data_dir / "verifier.sqlite")
    loops = Loops(settings.poll_seconds)
    try:
        async with Chain(settings.rpc_url, deployment) as chain, AsyncExitStack() as stack:
            stack.push_async_callback(loops.close)
            sender = TxSender(chain, key, settings.data_dir / "pending.json")
            models, calibrations = Models.load(settings.model_dirs), known_calibrations(settings, chain)
            look = await stack.enter_async_context(second_look(settings, store, models, calibrations))
            cases = CaseOpener(chain, sender, store, settings.public_url, look)
            judge = point_judge(settings, chain, key, store, client, models, calibrations)
            work = await stack.enter_async_context(open_work(settings, judge, chain.domain, key.address))
            auditor = CommitAuditor(chain, sender, store, work, settings.patience_seconds)
            loops.add("watch", ChainWatch(chain, store, settings.confirmations).step)
            loops.add("audit", auditor.step)
            loops.add("drift", DriftGuard(chain, store, EVERY_SECONDS).step)
            loops.add("report", VerdictReporter(chain, sender, store).step)
            loops.add("silence", SilenceChallenger(chain, sender, store).step)
            loops.add("cases", cases.step)
            loops.add("pay", PayCollector(chain, sender, settings.withdraw_seconds).step)
            yield Verifier(settings, key, store, loops, cases, chain.clock)
    finally:
        await client.close()
        store.close()


def server_of(verifier: Verifier) -> uvicorn.Server:
    """The server of its findings and metrics."""
    app = create_app(verifier.store, verifier.loops, VerifierMetrics(verifier.store, verifier.clock).registry)
    config = uvicorn.Config(
        app,
        host=verifier.settings.host,
        port=verifier.settings.port,
        log_config=None,
        access_log=False,
        lifespan="off",
        timeout_keep_alive=SERVER_SECONDS,
    )
    return uvicorn.Server(config)


async def serve(settings: VerifierSettings) -> None:
    """Runs a verifier until it is told to stop, or another process may have become its leader."""
    key = service_key(settings, Deployment.load(settings.deployment).chain_id)
    async with leases(settings, key.address, leads=True) as lost, open_verifier(settings) as verifier:
        log.info("verifier %s at %s", verifier.key.address, settings.public_url)
        verifier.loops.start()
        await _until(server_of(verifier).serve(), lost)


async def work(settings: VerifierSettings) -> None:
    """Judges points for a leader, until it is told to stop; sends no transaction."""
    if settings.redis_url is None:
        hint = 'set redis_url = "redis://…" in the settings of the leader and of its workers'
        raise BadRequest("a worker needs the Redis of its leader", param="redis_url", hint=hint)
    bound_recursion()
    deployment = Deployment.load(settings.deployment)
    key = service_key(settings, deployment.chain_id)
    async with AsyncExitStack() as stack:
        lost = await stack.enter_async_context(leases(settings, key.address, leads=False))
        client = NodeClient(settings.request_seconds)
        stack.push_async_callback(client.close)
        store = Store(settings.data_dir / "worker.sqlite")
        stack.callback(store.close)
        chain = await stack.enter_async_context(Chain(settings.rpc_url, deployment))
        # Of its own: which nodes there are, and what it promised them.
        loops = Loops(settings.poll_seconds)
        loops.add("watch", ChainWatch(chain, store, settings.confirmations).step)
        await loops.run_once()
        loops.start()
        stack.push_async_callback(loops.close)
        redis = await stack.enter_async_context(open_redis(settings))
        models, calibrations = Models.load(settings.model_dirs), known_calibrations(settings, chain)
        judge = point_judge(settings, chain, key, store, client, models, calibrations)
        log.info("worker of verifier %s on lane %d", key.address, settings.lane)
        await _until(worker(settings, PointStream(redis, key.address), judge, chain.domain).run(), lost)


async def _until(running: Coroutine[Any, Any, None], lost: tuple[asyncio.Event, ...]) -> None:
    """Runs until it ends, or a lease is lost."""
    task, losing = asyncio.create_task(running), asyncio.create_task(first_of(lost))
    await asyncio.wait((task, losing), return_when=asyncio.FIRST_COMPLETED)
    is_lost = losing.done()
    for each in (task, losing):
        each.cancel()
    ended, _ = await asyncio.gather(task, losing, return_exceptions=True)
    if is_lost:
        raise Conflict("another process may hold this one's lease", code="lease_lost", hint="start it again")
    if isinstance(ended, Exception):
        raise ended


def run(settings: VerifierSettings, *, as_worker: bool = False) -> None:
    """Serves, or works for whoever serves, in this process."""
    logging.basicConfig(level=settings.log_level, format="%(asctime)s %(levelname)s %(name)s %(message)s")
    logging.getLogger("httpx").setLevel(logging.WARNING)
    asyncio.run(work(settings) if as_worker else serve(settings))
