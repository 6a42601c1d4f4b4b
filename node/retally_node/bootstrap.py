"""The composition root: the only place that knows every adapter."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager

import uvicorn

from retally.chain.connection import Chain
from retally.chain.deployment import Deployment
from retally.chain.transactions import TxSender
from retally.errors import BadRequest
from retally.inference.chat_format import ChatFormat
from retally.inference.engine import Embedder, Engine, EngineInfo
from retally.inference.model_files import ModelFiles
from retally.inference.vllm_embedder import VllmEmbedder
from retally.inference.vllm_engine import VllmEngine
from retally.keep_alive import SERVER_SECONDS
from retally.keystore import service_key
from retally.protocol.eip712 import SigningKey
from retally.protocol.embeddings import VectorSizes
from retally.protocol.encoding import ZERO_ADDRESS
from retally.protocol.pricing import Prices
from retally_node.admission import Admission
from retally_node.answer_audit import Auditor
from retally_node.answer_form import AnswerForms
from retally_node.api import create_app
from retally_node.background import Court, loops_of
from retally_node.candidate import AdmissionRules
from retally_node.chain_views import ChainAudits, EscrowCollect, EscrowReserve, SilenceView
from retally_node.channels import ChannelBook
from retally_node.collector import check_authorised, collector_key
from retally_node.court_view import ChainCases, ChainCourt, HttpEvidence
from retally_node.decode import Decoder, PieceMaker
from retally_node.defence_view import ChainDefence
from retally_node.embed_job import VectorDecoder
from retally_node.engine_start import check_endpoint, engine_process, ready_engine
from retally_node.jury_duty import warn_if_blind
from retally_node.ledger import Ledger
from retally_node.metrics import Metrics
from retally_node.node import Node, Served
from retally_node.offers import Offers
from retally_node.outside import Outside
from retally_node.payers import ChainPayers
from retally_node.ports import Clock
from retally_node.recovery import close_open_segments
from retally_node.room import ServingRoom
from retally_node.segment import SegmentWork
from retally_node.serve_job import JobServer
from retally_node.settings import NodeSettings
from retally_node.settlement import Settlement
from retally_node.speed import measure

log = logging.getLogger(__name__)


async def assemble(
    settings: NodeSettings,
    key: SigningKey,
    deployment: Deployment,
    served: Served,
    engine: Engine,
    chat_format: ChatFormat,
    outside: Outside,
) -> Node:
    """Put a node together around its ports, and close what an earlier process left open."""
    ledger = Ledger(settings.data_dir / "ledger.sqlite")
    book = ChannelBook(ledger.money.channels(key.address))
    work = _work(settings, key, deployment, served, _decoder(served, engine, chat_format), ledger, outside.clock)
    await close_open_segments(work, book)
    room = ServingRoom(settings.max_running, settings.max_waiting)
    rules = _rules(settings, key, deployment, served, chat_format)
    settlement = _settlement(settings, deployment, ledger, book, outside)
    court = Court.of(settings, served, ledger, engine, chat_format, deployment.domain, outside)
    return Node(
        settings=settings,
        key=key,
        domain=deployment.domain,
        served=served,
        engine=engine,
        chat_format=chat_format,
        ledger=ledger,
        book=book,
        offers=_offers(settings, key, deployment, served, ledger, outside.clock),
        admission=Admission(rules, ledger, book, outside.payers, outside.clock, AnswerForms(chat_format), room),
        server=JobServer(work, room),
        settlement=settlement,
        auditor=Auditor(ledger, deployment.domain, outside.audits, outside.clock),
        defence=court.defence,
        loops=loops_of(settings, key, deployment.domain, ledger, book, settlement, court, outside),
        metrics=Metrics(room, book, court.defence),
    )


def _decoder(served: Served, engine: Engine, chat_format: ChatFormat) -> PieceMaker:
    if served.vectors is None:
        return Decoder(engine, chat_format)
    if not isinstance(engine, Embedder):
        raise BadRequest("this engine makes no vectors", param="serves")
    return VectorDecoder(engine, chat_format)


def _work(
    settings: NodeSettings,
    key: SigningKey,
    deployment: Deployment,
    served: Served,
    decoder: PieceMaker,
    ledger: Ledger,
    clock: Clock,
) -> SegmentWork:
    return SegmentWork(
        decoder=decoder,
        ledger=ledger,
        key=key,
        domain=deployment.domain,
        clock=clock,
        model_id=served.model_id,
        profile_id=served.profile_id,
        chunk_tokens=settings.chunk_tokens,
        voucher_wait_seconds=settings.voucher_wait_seconds,
    )


def _settlement(
    settings: NodeSettings, deployment: Deployment, ledger: Ledger, book: ChannelBook, outside: Outside
) -> Settlement:
    return Settlement(
        ledger,
        book,
        outside.collect,
        outside.payers,
        outside.clock,
        deployment.domain,
        deployed_block=outside.deployed_block,
        interval_seconds=settings.settle_interval_seconds,
        expiry_seconds=settings.settle_at_expiry_seconds,
    )


def _rules(
    settings: NodeSettings, key: SigningKey, deployment: Deployment, served: Served, chat_format: ChatFormat
) -> AdmissionRules:
    return AdmissionRules(
        node=key.address,
        domain=deployment.domain,
        model_id=served.model_id,
        profile_id=served.profile_id,
        max_context=served.max_context,
        vocab_size=chat_format.vocab_size,
        credit_per_payer=settings.credit_per_payer,
        credit_total=settings.credit_total,
        require_audit_consent=settings.require_audit_consent,
        vectors=served.vectors,
    )


def _offers(
    settings: NodeSettings, key: SigningKey, deployment: Deployment, served: Served, ledger: Ledger, clock: Clock
) -> Offers:
    return Offers(
        ledger,
        key,
        deployment.domain,
        clock,
        model_id=served.model_id,
        profile_id=served.profile_id,
        prices=Prices(settings.price_in, settings.price_cached, settings.price_out),
        max_context=served.max_context,
        lifetime_seconds=settings.offer_seconds,
    )


@asynccontextmanager
async def open_node(settings: NodeSettings, engine: Engine | None = None) -> AsyncIterator[Node]:
    """A node on the real chain, around the given engine or the one its settings name."""
    deployment = Deployment.load(settings.deployment)
    key = service_key(settings, deployment.chain_id)
    files = ModelFiles.load(settings.model_dir)
    files.check_unchanged()
    check_endpoint(settings)
    warn_if_blind(settings, files.model_id)
    async with AsyncExitStack() as stack:
        process = None
        if engine is None:
            engine = (VllmEmbedder if settings.embeds else VllmEngine)(settings.engine_url, files.name)
            process = engine_process(settings, files)
        stack.push_async_callback(engine.close)
        if process is not None:
            stack.push_async_callback(process.stop)
            await process.start()
        chain = await stack.enter_async_context(Chain(settings.rpc_url, deployment))
        info = await ready_engine(engine, process, settings.engine_start_seconds)
        served = await _served(settings, chain, key, files, info, engine)
        collector = collector_key(settings, key)
        await check_authorised(chain, served.owner, collector.address)
        pending = "pending_tx.json" if collector.address == key.address else "pending_collector_tx.json"
        sender = TxSender(chain, collector, settings.data_dir / pending)
        outside = _outside(settings, chain, key, sender, served)
        chat_format = ChatFormat.load(settings.model_dir)
        node = await assemble(settings, key, deployment, served, engine, chat_format, outside)
        stack.callback(node.ledger.close)
        stack.push_async_callback(node.loops.stop)
        node.loops.start()
        yield node


def _outside(settings: NodeSettings, chain: Chain, key: SigningKey, sender: TxSender, served: Served) -> Outside:
    court = ChainCourt(chain, sender, served.owner)
    return Outside(
        clock=chain.clock,
        payers=ChainPayers(chain.escrow, key.address, settings.standing_seconds),
        collect=EscrowCollect(chain, sender, key.address),
        audits=ChainAudits(chain),
        reserve=EscrowReserve(chain, sender),
        challenges=SilenceView(chain, sender, key.address),
        court=court,
        defence=ChainDefence(chain, sender, served.owner, court),
        cases=ChainCases(chain, settings.calibration_dir),
        evidence=HttpEvidence(),
        deployed_block=chain.deployment.deployed_block,
    )


async def _served(
    settings: NodeSettings, chain: Chain, key: SigningKey, files: ModelFiles, info: EngineInfo, engine: Engine
) -> Served:
    node = await chain.registry.node(key.address)
    if node.owner == ZERO_ADDRESS or not node.is_live:
        raise BadRequest(f"{key.address} is not a registered node", hint="run `retally node stake` first")
    if node.model_id != files.model_id:
        raise BadRequest(
            f"the node is registered for model 0x{node.model_id.hex()}, {files.folder} holds 0x{files.model_id.hex()}"
        )
    context = min(settings.max_context, files.max_context, info.max_context)
    vectors = VectorSizes(info.dimensions, files.shorter_vectors) if settings.embeds else None
    # What routers predict with is measured in tokens put out.
    speed = await measure(engine, context) if vectors is None else None
    return Served(files.name, files.model_id, node.profile_id, context, node.owner, vectors, speed)


class _Server(uvicorn.Server):
    """Ends streams properly before connections are closed."""

    def __init__(self, config: uvicorn.Config, node: Node) -> None:
        super().__init__(config)
        self._node = node

    async def shutdown(self, sockets: object = None) -> None:
        await self._node.server.shutdown()
        await super().shutdown(sockets)  # type: ignore[arg-type]  # passed on as it came


async def serve(settings: NodeSettings, engine: Engine | None = None) -> None:
    """Serve until told to stop."""
    async with open_node(settings, engine) as node:
        config = uvicorn.Config(
            create_app(node),
            host=settings.host,
            port=settings.port,
            log_level=settings.log_level.lower(),
            access_log=False,
            timeout_keep_alive=SERVER_SECONDS,
            timeout_graceful_shutdown=10,
        )
        log.info("node %s serves %s on %s:%d", node.address, node.model_name, settings.host, settings.port)
        await _Server(config, node).serve()


def run(settings: NodeSettings, engine: Engine | None = None) -> None:
    """Serve in this process, around the given engine or the one the settings name."""
    logging.basicConfig(level=settings.log_level, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    asyncio.run(serve(settings, engine))
