"""The cheater's weights have the real ones' shape and other values."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from devnet_network import dequantise, quantise
from make_cheaper_weights import KINDS, MODEL, make_cheaper


@pytest.mark.parametrize("kind", KINDS)
def test_folder_can_stand_in_for_the_model(kind: str, tmp_path: Path) -> None:
    make_cheaper(kind, MODEL, tmp_path)
    real, cheaper = (load_file(folder / "model.safetensors") for folder in (MODEL, tmp_path))
    assert {name: value.shape for name, value in real.items()} == {name: value.shape for name, value in cheaper.items()}
    assert {value.dtype for value in cheaper.values()} == {torch.bfloat16}
    assert not torch.equal(real["model.embed_tokens.weight"], cheaper["model.embed_tokens.weight"])
    assert (tmp_path / "tokenizer.json").read_bytes() == (MODEL / "tokenizer.json").read_bytes()
    assert [path.name for path in tmp_path.glob("*.safetensors")] == ["model.safetensors"]


def test_four_bits_keep_the_largest_of_a_group_and_round_the_rest() -> None:
    weight = torch.randn(8, 64)
    back = dequantise(*quantise(weight), (8, 64))
    steps = weight.reshape(-1, 32).abs().amax(1, keepdim=True) / 7
    assert float(((back - weight).reshape(-1, 32).abs() / steps).max()) <= 0.51
    assert float((back - weight).abs().mean()) > 0
