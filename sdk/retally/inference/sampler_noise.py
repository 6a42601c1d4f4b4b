"""The noise of R-27 for many rows and tokens at once, on the processor or on a GPU."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor


def _signed(value: int) -> int:
    return value - (1 << 64) if value >> 63 else value


_GOLDEN, _MIX_1, _MIX_2 = 0x9E3779B97F4A7C15, 0xBF58476D1CE4E5B9, 0x94D049BB133111EB
#: (shift, factor) of the two rounds of mixing.
_ROUNDS = ((30, _MIX_1), (27, _MIX_2))
#: Vocabularies whose ids are kept multiplied: an engine has one.
_KEPT_VOCABULARIES = 4


def noise(keys: Sequence[int], ids: Tensor) -> Tensor:
    """Return fp32 Gumbel noise [keys, ids]; `ids` is one row for all keys or one row for each."""
    return _noise(keys, (ids + 1) * _signed(_GOLDEN))


def noise_of_all(keys: Sequence[int], size: int, device: torch.device) -> Tensor:
    """Return fp32 Gumbel noise [keys, size] of a whole vocabulary."""
    return _noise(keys, _vocabulary(size, device))


@lru_cache(maxsize=_KEPT_VOCABULARIES)
def _vocabulary(size: int, device: torch.device) -> Tensor:
    return (torch.arange(size, device=device) + 1) * _signed(_GOLDEN)


def _noise(keys: Sequence[int], steps: Tensor) -> Tensor:
    """The noise of keys and multiplied ids, both 64 bits that wrap around."""
    if steps.device.type == "cpu":
        # numpy shifts unsigned numbers without a mask and has the faster logarithm: 0.5 ms for 65,536 against 1.6.
        key = np.array(keys, dtype=np.uint64)[:, None]
        return torch.from_numpy(_gumbel_on_cpu(key + steps.numpy().view(np.uint64)))
    key = torch.tensor([_signed(key) for key in keys], dtype=torch.int64, device=steps.device)[:, None]
    return _gumbel_on_device(key + steps)


def _gumbel_on_cpu(z: NDArray[np.uint64]) -> NDArray[np.float32]:
    """Mix and convert in place: at this size every new array costs as much as the arithmetic."""
    spare = np.empty_like(z)
    for shift, factor in _ROUNDS:
        np.right_shift(z, np.uint64(shift), out=spare)
        z ^= spare
        z *= np.uint64(factor)
    np.right_shift(z, np.uint64(31), out=spare)
    z ^= spare
    z >>= np.uint64(11)
    uniform = z.astype(np.float64)
    uniform += 0.5
    uniform *= 2.0**-53
    np.log(uniform, out=uniform)
    np.negative(uniform, out=uniform)
    np.log(uniform, out=uniform)
    return np.negative(uniform.astype(np.float32))


def _gumbel_on_device(z: Tensor) -> Tensor:
    # int64 arithmetic wraps like uint64; only right shifts need their sign bits cleared.
    for shift, factor in _ROUNDS:
        z = (z ^ _shift(z, shift)) * _signed(factor)
    z = z ^ _shift(z, 31)
    uniform = (_shift(z, 11).double() + 0.5) * 2.0**-53
    return -torch.log(-torch.log(uniform)).float()


def _shift(z: Tensor, bits: int) -> Tensor:
    return (z >> bits) & ((1 << (64 - bits)) - 1)
