"""How to start vLLM for retally: the flags that a node's engine and the devnet share (imports no vLLM)."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from retally.errors import BadRequest
from retally.keep_alive import SERVER_SECONDS

SAMPLER_ARGUMENT = "retally"
SAMPLER_PLUGIN = "retally.inference.vllm_sampler:RetallySampler"
#: Answers replays without text (`vllm_score_route`). An engine without it is asked for completions: that costs more.
SCORE_PLUGIN = "retally.inference.vllm_score_route.ScoreRoute"
SCORE_PATH = "/v1/retally/scores"
#: The `vllm` command of some builds does not start; the module does in all of them.
SERVER_MODULE = "vllm.entrypoints.openai.api_server"
#: 64 logprobs for replay, one more for the claimed token, one to spare.
MAX_LOGPROBS = 66

ANSWER_ARGUMENTS = (
    *("--max-logprobs", str(MAX_LOGPROBS)),
    *("--logits-processors", SAMPLER_PLUGIN),
    *("--middleware", SCORE_PLUGIN),
    # The model's own defaults for temperature and the like must not reach a signed job.
    *("--generation-config", "vllm"),
    "--enable-prompt-tokens-details",
)
#: A model for embeddings keeps its own pooling; of any other the last token's state is taken.
EMBED_ARGUMENTS = ("--runner", "pooling", "--convert", "embed")


def engine_arguments(
    model_dir: Path | str,
    name: str,
    port: int,
    *,
    max_context: int = 1024,
    is_cpu: bool = True,
    max_requests: int = 64,
    embeds: bool = False,
) -> list[str]:
    """Return the arguments of `python -m vllm.entrypoints.openai.api_server`."""
    arguments = [
        *("--model", str(model_dir)),
        *("--served-model-name", name),
        *("--host", "127.0.0.1"),
        *("--port", str(port)),
        *("--max-model-len", str(max_context)),
        *(EMBED_ARGUMENTS if embeds else ANSWER_ARGUMENTS),
    ]
    if is_cpu:
        # bfloat16 without compilation dies with an illegal instruction on some processors; float32 serves everywhere.
        arguments += ["--dtype", "float32", "--enforce-eager", "--max-num-seqs", str(max_requests)]
    return arguments


def engine_environment(
    base: Mapping[str, str], *, is_cpu: bool = True, cores: str | None = None, is_exact: bool = False
) -> dict[str, str]:
    """Return the environment of the engine's process, made from that of its parent.

    Raises BadRequest where an exact profile is asked of a processor: batch-invariant kernels exist for GPUs only.
    """
    if is_exact and is_cpu:
        raise BadRequest("no batch-invariant kernels exist for processors", hint="declare a profile that is not exact")
    environment = {
        **base,
        "HF_HUB_OFFLINE": "1",
        "VLLM_NO_USAGE_STATS": "1",
        "DO_NOT_TRACK": "1",
        "VLLM_HTTP_TIMEOUT_KEEP_ALIVE": str(SERVER_SECONDS),
        # The sampler is a plugin of the first model runner; the second one refuses it.
        "VLLM_USE_V2_MODEL_RUNNER": "0",
    }
    if is_exact:
        environment["VLLM_BATCH_INVARIANT"] = "1"
    if is_cpu:
        environment.setdefault("VLLM_CPU_KVCACHE_SPACE", "1")
        # Without it every engine takes the same first core.
        environment["VLLM_CPU_OMP_THREADS_BIND"] = cores or environment.get("VLLM_CPU_OMP_THREADS_BIND", "nobind")
    return environment
