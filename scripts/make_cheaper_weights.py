"""Make the cheater's weights from the devnet's model: 4-bit groups of the real ones, or an earlier checkpoint.

Usage: scripts/make_cheaper_weights.py --kind int4|earlier --out FOLDER [--model FOLDER]
"""

from __future__ import annotations

import argparse
import shutil
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from devnet_network import dequantise, quantise

MODEL = Path(__file__).resolve().parent.parent / "sdk/retally/devnet/model"
WEIGHTS = "model.safetensors"
EARLIER = "earlier/weights.safetensors"
KINDS = ("int4", "earlier")


def int4_weights(model_dir: Path) -> dict[str, Tensor]:
    """Return the real weights after a round trip through 4-bit groups: what serving in 4 bits computes with."""
    weights = load_file(model_dir / WEIGHTS)
    return {name: _through_four_bits(value) if value.dim() == 2 else value for name, value in weights.items()}


def earlier_weights(model_dir: Path) -> dict[str, Tensor]:
    """Return the weights of the earlier checkpoint, which is kept in 4-bit groups."""
    shapes = {name: value.shape for name, value in load_file(model_dir / WEIGHTS).items()}
    stored = load_file(model_dir / EARLIER)
    weights = {name: stored[name] for name in shapes if name in stored}
    for name in shapes.keys() - weights.keys():
        packed, scale = stored[f"{name}.packed"], stored[f"{name}.scale"]
        weights[name] = dequantise(packed, scale, tuple(shapes[name])).to(torch.bfloat16)
    return weights


def make_cheaper(kind: str, model_dir: Path, out: Path) -> None:
    """Write a folder like the model's, with other weights: same names, sizes and tokenizer."""
    out.mkdir(parents=True, exist_ok=True)
    for path in model_dir.iterdir():
        if path.is_file() and path.suffix != ".safetensors":
            shutil.copy(path, out / path.name)
    weights = int4_weights(model_dir) if kind == "int4" else earlier_weights(model_dir)
    save_file({name: value.contiguous() for name, value in weights.items()}, out / WEIGHTS, {"format": "pt"})


def _through_four_bits(weight: Tensor) -> Tensor:
    return dequantise(*quantise(weight), tuple(weight.shape)).to(weight.dtype)


def main() -> None:
    """Read the arguments and write the folder."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kind", choices=KINDS, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--model", type=Path, default=MODEL)
    options = parser.parse_args()
    make_cheaper(options.kind, options.model, options.out)
    print(options.out)


if __name__ == "__main__":
    main()
