"""The engine's plugin without an engine; shared by tests of its batches and of its arguments."""

from __future__ import annotations

from types import SimpleNamespace

import torch

from retally.devnet.tools import devnet_model_dir
from retally.inference.vllm_sampler import RetallySampler


def new_sampler() -> RetallySampler:
    """The plugin as an engine with the devnet's model makes it."""
    model = SimpleNamespace(tokenizer=str(devnet_model_dir()))
    return RetallySampler(SimpleNamespace(model_config=model), torch.device("cpu"), False)
