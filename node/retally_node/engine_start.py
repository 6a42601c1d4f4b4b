"""Find an engine that can serve, and say clearly what one lacks."""

from __future__ import annotations

import asyncio
import logging
from urllib.parse import urlsplit

from retally.errors import BadRequest, EngineUnavailable
from retally.inference.engine import Engine, EngineInfo
from retally.inference.model_files import ModelFiles
from retally.inference.profile_files import ProfileFile
from retally_node.engine_process import EngineProcess, vllm_command
from retally_node.settings import NodeSettings

log = logging.getLogger(__name__)

POLL_SECONDS = 1.0


def engine_process(settings: NodeSettings, files: ModelFiles) -> EngineProcess | None:
    """The engine to start, if this node shall start one."""
    log_path = settings.data_dir / "engine.log"
    is_exact = settings.profile_file is not None and ProfileFile.load(settings.profile_file).is_exact
    if settings.engine_command is not None:
        return EngineProcess(settings.engine_command, log_path, is_exact=is_exact)
    if not settings.start_engine:
        return None
    port = urlsplit(settings.engine_url).port or 8000
    command = vllm_command(files.folder, files.name, port, settings.max_context, embeds=settings.embeds)
    return EngineProcess(command, log_path, is_exact=is_exact)


def check_endpoint(settings: NodeSettings) -> None:
    """Raise BadRequest where the profile is for what this node does not serve (R-76)."""
    if settings.profile_file is None:
        return
    profile = ProfileFile.load(settings.profile_file)
    if profile.embeds != settings.embeds:
        what = "embeddings" if profile.embeds else "completions"
        hint = 'a profile for embeddings says so in its JSON: "endpoint": "embeddings"'
        raise BadRequest(f"{profile.path} is a profile for {what}", param="serves", hint=hint)


async def ready_engine(engine: Engine, process: EngineProcess | None, timeout_seconds: float) -> EngineInfo:
    """Wait until the engine answers, then check what it can do."""
    loop = asyncio.get_running_loop()
    deadline = loop.time() + timeout_seconds
    while True:
        try:
            info = await engine.check()
            break
        except EngineUnavailable:
            if process is not None:
                process.check_alive()
            if loop.time() > deadline:
                raise
            await asyncio.sleep(POLL_SECONDS)
    check_abilities(info)
    for hint in info.hints:
        log.warning("%s", hint)
    return info


def check_abilities(info: EngineInfo) -> None:
    """Raise EngineUnavailable naming everything that is missing."""
    lacking = list(info.problems)
    if info.dimensions and not lacking:
        return
    if not info.has_sampler and not lacking:
        lacking.append("the retally sampler plugin is not loaded (--logits-processors)")
    if not info.has_prompt_logprobs and not lacking:
        lacking.append("one prefill does not return 64 prompt logprobs (--max-logprobs)")
    if lacking:
        raise EngineUnavailable(
            f"the engine can't serve retally jobs: {'; '.join(lacking)}",
            hint="let the node start it (start_engine = true), or use the flags of retally.inference.vllm_flags",
        )
