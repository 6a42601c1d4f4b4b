"""A whole node around stand-ins of engine and chain, and a customer that signs for it."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer, decoders, models, pre_tokenizers

from retally.inference.chat_format import ChatFormat
from retally.inference.profile_files import ProfileFile
from retally.protocol.embeddings import VectorSizes
from retally_node.bootstrap import assemble
from retally_node.node import Node, Served
from retally_node.outside import Outside
from retally_node.settings import NodeSettings
from tests.fakes import FakeEmbedder, FakeEngine
from tests.fakes_node_customer import Customer
from tests.fakes_node_ports import (
    DEPLOYMENT,
    MODEL_ID,
    NODE_KEY,
    OWNER,
    PROFILE_ID,
    START,
    FakeAudits,
    FakeCases,
    FakeClock,
    FakeCollect,
    FakeCourt,
    FakeDefenceCourt,
    FakeEvidence,
    FakePayers,
    FakeReserve,
    FakeSilence,
)

__all__ = [
    "DEPLOYMENT",
    "MODEL_ID",
    "NODE_KEY",
    "OWNER",
    "PROFILE_ID",
    "START",
    "VECTOR_SIZE",
    "Customer",
    "FakeClock",
    "FakeCollect",
    "FakePayers",
    "World",
    "embedding_changes",
    "node_settings",
    "open_world",
    "tiny_format",
]

VECTOR_SIZE = 8
TEMPLATE = (
    "{% for tool in tools or [] %}<tool_call> knows {{ tool.function.name }}\n{% endfor %}"
    "{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}"
)


def embedding_changes(folder: Path) -> dict[str, Any]:
    """What a node is told that serves embeddings."""
    profile = folder / "profile.json"
    profile.write_text(json.dumps({"name": "tiny-embeddings", "endpoint": "embeddings"}))
    return {"serves": "embeddings", "profile_file": profile, "price_out": 0, "make_engine": FakeEmbedder}


def tiny_format(folder: Path) -> ChatFormat:
    """A byte-level tokenizer without merges: one token a byte."""
    folder.mkdir(parents=True, exist_ok=True)
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocab = {"<|end|>": 0, "<|eos|>": 1} | {symbol: 2 + n for n, symbol in enumerate(alphabet)}
    tokenizer = Tokenizer(models.BPE(vocab=vocab, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(["<|end|>", "<|eos|>"])
    tokenizer.save(str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").write_text(json.dumps({"eos_token": "<|eos|>", "chat_template": TEMPLATE}))
    return ChatFormat.load(folder)


def node_settings(folder: Path, **changes: Any) -> NodeSettings:
    """Settings of a node on the development chain."""
    values: dict[str, Any] = {
        "rpc_url": "http://127.0.0.1:1",
        "deployment": folder / "deployment.json",
        "key": "0x" + NODE_KEY.secret.hex(),
        "model_dir": folder / "model",
        "data_dir": folder / "data",
        "price_in": 2_000_000,
        "price_cached": 1_000_000,
        "price_out": 6_000_000,
        "max_context": 256,
        "admin_token": "secret",
        "voucher_wait_seconds": 0.2,
    }
    return NodeSettings(**{**values, **changes})


@dataclass
class World:
    """A node with everything around it within reach."""

    node: Node
    engine: FakeEngine
    clock: FakeClock
    payers: FakePayers
    collect: FakeCollect
    audits: FakeAudits
    reserve: FakeReserve
    silence: FakeSilence
    court: FakeCourt
    defence: FakeDefenceCourt
    cases: FakeCases
    evidence: FakeEvidence

    async def close(self) -> None:
        await self.node.server.shutdown()
        self.node.ledger.close()


async def open_world(
    folder: Path, collect: FakeCollect | None = None, make_engine: type[FakeEngine] = FakeEngine, **changes: Any
) -> World:
    """A running node in a folder; opened again it finds its books."""
    chat_format = tiny_format(folder / "model")
    engine = make_engine(vocab_size=chat_format.vocab_size)
    engine.grammars = chat_format.grammars
    clock, payers, audits, reserve = FakeClock(), FakePayers(), FakeAudits(), FakeReserve()
    collect = collect or FakeCollect()
    settings = node_settings(folder, **changes)
    served = Served("retally/tiny", MODEL_ID, PROFILE_ID, settings.max_context, OWNER)
    if settings.embeds and settings.profile_file is not None:
        profile = ProfileFile.load(settings.profile_file).profile_id
        served = replace(served, profile_id=profile, vectors=VectorSizes(VECTOR_SIZE, (4,)))
    silence, court, defence = FakeSilence(), FakeCourt(), FakeDefenceCourt()
    cases, evidence = FakeCases(), FakeEvidence()
    outside = Outside(clock, payers, collect, audits, reserve, silence, court, defence, cases, evidence, 1)
    node = await assemble(settings, NODE_KEY, DEPLOYMENT, served, engine, chat_format, outside)
    return World(node, engine, clock, payers, collect, audits, reserve, silence, court, defence, cases, evidence)
