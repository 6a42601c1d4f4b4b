"""A model of random weights with the devnet model's architecture and tokenizer, as large as one asks for."""

from __future__ import annotations

import json
import math
import shutil
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor

HIDDEN, INNER, HEADS, KEYS, HEAD = 1024, 2816, 16, 8, 64
#: Spread of the logits in nats: with it a nucleus of 0.95 holds some dozens of tokens, as a trained model's does.
LOGIT_SPREAD = 4.0
_INITIAL = 0.02
_SEED = 1


def make_random_model(million_parameters: int, like: Path, out: Path) -> int:
    """Write such a model into a folder and return its number of parameters, at least that many million."""
    config = json.loads((like / "config.json").read_text(encoding="utf-8"))
    size = int(config["vocab_size"]) * HIDDEN
    layer = sum(rows * columns for rows, columns in _matrices().values())
    layers = max(1, math.ceil((million_parameters * 1_000_000 - size) / layer))
    shape = {
        "hidden_size": HIDDEN,
        "intermediate_size": INNER,
        "num_attention_heads": HEADS,
        "num_key_value_heads": KEYS,
        "head_dim": HEAD,
        "num_hidden_layers": layers,
    }
    out.mkdir(parents=True, exist_ok=True)
    for path in like.iterdir():
        if path.is_file() and path.suffix != ".safetensors":
            shutil.copy(path, out / path.name)
    (out / "config.json").write_text(json.dumps({**config, **shape}, indent=1), encoding="utf-8")
    weights = _weights(int(config["vocab_size"]), layers)
    save_file(weights, out / "model.safetensors", {"format": "pt"})
    return sum(weight.numel() for weight in weights.values())


def _matrices() -> dict[str, tuple[int, int]]:
    return {
        "self_attn.q_proj": (HEADS * HEAD, HIDDEN),
        "self_attn.k_proj": (KEYS * HEAD, HIDDEN),
        "self_attn.v_proj": (KEYS * HEAD, HIDDEN),
        "self_attn.o_proj": (HIDDEN, HEADS * HEAD),
        "mlp.gate_proj": (INNER, HIDDEN),
        "mlp.up_proj": (INNER, HIDDEN),
        "mlp.down_proj": (HIDDEN, INNER),
    }


def _weights(vocabulary: int, layers: int) -> dict[str, Tensor]:
    source = torch.Generator().manual_seed(_SEED)

    def random(rows: int, columns: int, spread: float) -> Tensor:
        return (torch.randn(rows, columns, generator=source) * spread).to(torch.bfloat16)

    ones = torch.ones(HIDDEN, dtype=torch.bfloat16)
    # The embedding is also the head: normed states have length sqrt(HIDDEN).
    weights = {"model.embed_tokens.weight": random(vocabulary, HIDDEN, LOGIT_SPREAD / math.sqrt(HIDDEN))}
    for n in range(layers):
        for name, (rows, columns) in _matrices().items():
            weights[f"model.layers.{n}.{name}.weight"] = random(rows, columns, _INITIAL)
        for name in ("input_layernorm", "post_attention_layernorm"):
            weights[f"model.layers.{n}.{name}.weight"] = ones.clone()
    return {**weights, "model.norm.weight": ones.clone()}
