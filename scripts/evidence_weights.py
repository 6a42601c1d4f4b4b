"""Weights that a cheat serves instead of the genuine ones, as folders that an engine can load.

4 bits: groups of 32; 8 bits: whole numbers with one scale a row; fp8: e4m3 with one scale a row. These round the
matrices of the layers and leave the embedding, as quantised models usually do, and are stored wide: what is measured
is the rounding of the weights, not an engine's kernels for narrow ones. `fine-tune` is trained on the licence's text.
"""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer
from torch import Tensor
from transformers import AutoModelForCausalLM

from devnet_network import dequantise, quantise
from make_cheaper_weights import WEIGHTS, earlier_weights

ROOT = Path(__file__).resolve().parent.parent
OTHER_TEXT = ROOT / "LICENSE"
STEPS, RATE, ROWS, LENGTH = 30, 1e-4, 8, 128


def four_bits(weight: Tensor) -> Tensor:
    """A matrix after a round trip through groups of 4 bits."""
    return dequantise(*quantise(weight), tuple(weight.shape)).float()


def eight_bits(weight: Tensor) -> Tensor:
    """A matrix after a round trip through 8-bit whole numbers, one scale a row."""
    wide = weight.float()
    scale = (wide.abs().amax(1, keepdim=True) / 127).clamp_min(1e-12)
    return (wide / scale).round() * scale


def eight_bits_floating(weight: Tensor) -> Tensor:
    """A matrix after a round trip through 8-bit floats (e4m3), one scale a row."""
    wide = weight.float()
    scale = (wide.abs().amax(1, keepdim=True) / 448).clamp_min(1e-12)
    return (wide / scale).to(torch.float8_e4m3fn).float() * scale


ROUNDING: dict[str, Callable[[Tensor], Tensor]] = {
    "int4": four_bits,
    "int8": eight_bits,
    "fp8": eight_bits_floating,
}


def rounded(kind: str, model_dir: Path) -> dict[str, Tensor]:
    """The genuine weights with the layers' matrices rounded."""
    weights = load_file(model_dir / WEIGHTS)
    return {
        name: ROUNDING[kind](value) if value.dim() == 2 and "embed" not in name else value.float()
        for name, value in weights.items()
    }


def fine_tuned(model_dir: Path) -> dict[str, Tensor]:
    """The genuine weights after a few steps on other text."""
    torch.manual_seed(1)
    model: Any = AutoModelForCausalLM.from_pretrained(model_dir, dtype=torch.float32).train()
    tokenizer = Tokenizer.from_file(str(model_dir / "tokenizer.json"))
    ids = torch.tensor(tokenizer.encode(OTHER_TEXT.read_text(encoding="utf-8")).ids)
    adam = torch.optim.AdamW(model.parameters(), lr=RATE, weight_decay=0.0)
    for _ in range(STEPS):
        starts = torch.randint(len(ids) - LENGTH, (ROWS,)).tolist()
        batch = torch.stack([ids[start : start + LENGTH] for start in starts])
        loss = model(input_ids=batch, labels=batch).loss
        adam.zero_grad()
        loss.backward()
        adam.step()
    names = load_file(model_dir / WEIGHTS).keys()
    state = model.state_dict()
    return {name: state[name].detach().float() for name in names}


def make(kind: str, model_dir: Path, out: Path) -> Path:
    """Write a folder like the model's with other weights, unless it is there; return it."""
    if (out / WEIGHTS).exists():
        return out
    out.mkdir(parents=True, exist_ok=True)
    for path in model_dir.iterdir():
        if path.is_file() and path.suffix != ".safetensors":
            shutil.copy(path, out / path.name)
    if kind == "earlier":
        weights = {name: value.float() for name, value in earlier_weights(model_dir).items()}
    else:
        weights = fine_tuned(model_dir) if kind == "fine-tune" else rounded(kind, model_dir)
    part = out / f"{WEIGHTS}.{os.getpid()}.part"
    save_file({name: value.contiguous() for name, value in weights.items()}, part, {"format": "pt"})
    part.replace(out / WEIGHTS)
    return out


def recipe(kind: str) -> list[object]:
    """What determines such weights beside the genuine ones."""
    text = hashlib.sha256(OTHER_TEXT.read_bytes()).hexdigest()
    return ["fine-tune", STEPS, RATE, ROWS, LENGTH, text] if kind == "fine-tune" else [kind]


def sha256(folder: Path) -> str:
    """The hash of a folder's weights."""
    return hashlib.sha256((folder / WEIGHTS).read_bytes()).hexdigest()
