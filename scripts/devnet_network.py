"""The Llama network of the devnet's model, its optimiser and the compact form of its weights (torch only)."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass

import torch
from torch import Tensor, nn
from torch.autograd.function import FunctionCtx
from torch.nn import functional

GROUP = 32


@dataclass(frozen=True)
class Shape:
    """Sizes of the network, named as in a Llama config.json."""

    vocab_size: int = 4096
    hidden_size: int = 256
    intermediate_size: int = 512
    num_hidden_layers: int = 4
    num_attention_heads: int = 4
    num_key_value_heads: int = 2
    head_dim: int = 64
    max_position_embeddings: int = 1024
    rope_theta: float = 10000.0
    rms_norm_eps: float = 1e-5

    def to_config(self, bos: int, eos: int, pad: int) -> dict[str, object]:
        """Return the config.json that vLLM and transformers read."""
        return {
            "architectures": ["LlamaForCausalLM"], "model_type": "llama", **asdict(self),
            "hidden_act": "silu", "attention_bias": False, "mlp_bias": False, "tie_word_embeddings": True,
            "attention_dropout": 0.0, "initializer_range": 0.02, "rope_scaling": None, "use_cache": True,
            "bos_token_id": bos, "eos_token_id": eos, "pad_token_id": pad, "torch_dtype": "bfloat16",
        }  # fmt: skip


class RmsNorm(nn.Module):  # type: ignore[misc]  # torch is not typed here
    """Root-mean-square norm in fp32."""

    def __init__(self, size: int, eps: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(size))
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        """Normalise the last dimension."""
        return functional.rms_norm(x.float(), (x.shape[-1],), self.weight, self.eps).to(x.dtype)


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Apply rotary positions in the half-split layout that Llama checkpoints use."""
    half = x.shape[-1] // 2
    turned = torch.cat((-x[..., half:], x[..., :half]), dim=-1)
    return x * cos.to(x.dtype) + turned * sin.to(x.dtype)


class Attention(nn.Module):  # type: ignore[misc]  # torch is not typed here
    """Causal attention with grouped keys and values."""

    def __init__(self, s: Shape) -> None:
        super().__init__()
        self.s = s
        self.q_proj = nn.Linear(s.hidden_size, s.num_attention_heads * s.head_dim, bias=False)
        self.k_proj = nn.Linear(s.hidden_size, s.num_key_value_heads * s.head_dim, bias=False)
        self.v_proj = nn.Linear(s.hidden_size, s.num_key_value_heads * s.head_dim, bias=False)
        self.o_proj = nn.Linear(s.num_attention_heads * s.head_dim, s.hidden_size, bias=False)

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        """Attend within each row."""
        rows, length, _ = x.shape
        s = self.s
        q = self.q_proj(x).view(rows, length, s.num_attention_heads, s.head_dim).transpose(1, 2)
        k = self.k_proj(x).view(rows, length, s.num_key_value_heads, s.head_dim).transpose(1, 2)
        v = self.v_proj(x).view(rows, length, s.num_key_value_heads, s.head_dim).transpose(1, 2)
        repeat = s.num_attention_heads // s.num_key_value_heads
        k, v = rotate(k, cos, sin).repeat_interleave(repeat, 1), v.repeat_interleave(repeat, 1)
        out = functional.scaled_dot_product_attention(rotate(q, cos, sin), k, v, is_causal=True)
        return self.o_proj(out.transpose(1, 2).reshape(rows, length, -1))


class Mlp(nn.Module):  # type: ignore[misc]  # torch is not typed here
    """Gated feed-forward layer."""

    def __init__(self, s: Shape) -> None:
        super().__init__()
        self.gate_proj = nn.Linear(s.hidden_size, s.intermediate_size, bias=False)
        self.up_proj = nn.Linear(s.hidden_size, s.intermediate_size, bias=False)
        self.down_proj = nn.Linear(s.intermediate_size, s.hidden_size, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """Transform each position."""
        return self.down_proj(functional.silu(self.gate_proj(x)) * self.up_proj(x))


class Layer(nn.Module):  # type: ignore[misc]  # torch is not typed here
    """One transformer block."""

    def __init__(self, s: Shape) -> None:
        super().__init__()
        self.self_attn = Attention(s)
        self.mlp = Mlp(s)
        self.input_layernorm = RmsNorm(s.hidden_size, s.rms_norm_eps)
        self.post_attention_layernorm = RmsNorm(s.hidden_size, s.rms_norm_eps)

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        """Apply attention, then the feed-forward layer."""
        x = x + self.self_attn(self.input_layernorm(x), cos, sin)
        return x + self.mlp(self.post_attention_layernorm(x))


class Llama(nn.Module):  # type: ignore[misc]  # torch is not typed here
    """Llama with tied embeddings; its state dict has the names of a Llama checkpoint without the `model.` prefix."""

    def __init__(self, s: Shape) -> None:
        super().__init__()
        self.s = s
        self.embed_tokens = nn.Embedding(s.vocab_size, s.hidden_size)
        self.layers = nn.ModuleList(Layer(s) for _ in range(s.num_hidden_layers))
        self.norm = RmsNorm(s.hidden_size, s.rms_norm_eps)
        for name, parameter in self.named_parameters():
            if parameter.dim() == 2:
                scale = (
                    (2 * s.num_hidden_layers) ** -0.5 if name.endswith(("o_proj.weight", "down_proj.weight")) else 1.0
                )
                nn.init.normal_(parameter, std=0.02 * scale)
        angles = torch.outer(
            torch.arange(s.max_position_embeddings), s.rope_theta ** -(torch.arange(0, s.head_dim, 2) / s.head_dim)
        )
        self.register_buffer("cos", torch.cat((angles, angles), -1).cos(), persistent=False)
        self.register_buffer("sin", torch.cat((angles, angles), -1).sin(), persistent=False)

    def features(self, ids: Tensor) -> Tensor:
        """Return the last layer's normalised output of every position."""
        x = self.embed_tokens(ids)
        cos, sin = self.cos[: ids.shape[1]], self.sin[: ids.shape[1]]
        for layer in self.layers:
            x = layer(x, cos, sin)
        return self.norm(x)

    def forward(self, ids: Tensor) -> Tensor:
        """Return the logits of every position."""
        return functional.linear(self.features(ids), self.embed_tokens.weight)


class HeadLoss(torch.autograd.Function):  # type: ignore[misc]  # torch is not typed here
    """Mean cross entropy of the tied output layer, a slice of tokens at a time, in the processor's cache."""

    SLICE = 512

    @staticmethod
    def forward(ctx: FunctionCtx, features: Tensor, weight: Tensor, targets: Tensor) -> Tensor:
        """Compute the loss and, while the logits are at hand, both gradients."""
        narrow = weight.bfloat16()
        grad_features = torch.empty_like(features, dtype=torch.bfloat16)
        grad_weight = torch.zeros_like(weight)
        loss = torch.zeros(())
        for begin in range(0, len(targets), HeadLoss.SLICE):
            part = slice(begin, begin + HeadLoss.SLICE)
            x, wanted = features[part].bfloat16(), targets[part, None]
            logits = (x @ narrow.T).float()
            logits -= logits.amax(1, keepdim=True)
            chosen = logits.gather(1, wanted)
            total = logits.exp_().sum(1, keepdim=True)
            loss += (total.log() - chosen).sum()
            logits /= total
            logits.scatter_add_(1, wanted, torch.full_like(chosen, -1.0))
            narrow_grad = logits.bfloat16()
            grad_features[part] = narrow_grad @ narrow
            grad_weight += narrow_grad.T @ x
        ctx.save_for_backward(grad_features, grad_weight)
        ctx.count = len(targets)
        return loss / len(targets)

    @staticmethod
    def backward(ctx: FunctionCtx, grad: Tensor) -> tuple[Tensor, Tensor, None]:
        """Hand on the gradients computed in the forward pass."""
        grad_features, grad_weight = ctx.saved_tensors
        scale = grad / ctx.count
        return grad_features.float() * scale, grad_weight * scale, None


class Muon(torch.optim.Optimizer):  # type: ignore[misc]  # torch is not typed here
    """Momentum whose updates are orthogonalised by five Newton-Schulz steps; for the weight matrices of the blocks."""

    def __init__(self, params: Iterator[nn.Parameter] | list[nn.Parameter], lr: float, momentum: float = 0.95) -> None:
        super().__init__(params, {"lr": lr, "momentum": momentum})

    @torch.no_grad()  # type: ignore[untyped-decorator]  # torch is not typed here
    def step(self, closure: None = None) -> None:
        """Update every matrix once."""
        for group in self.param_groups:
            for p in group["params"]:
                state = self.state[p]
                buffer = state.setdefault("momentum", torch.zeros_like(p))
                buffer.lerp_(p.grad, 1 - group["momentum"])
                update = orthogonalise(p.grad.lerp(buffer, group["momentum"]))
                p.mul_(1 - group["lr"] * 0.05)
                p.add_(update, alpha=-group["lr"] * max(1.0, p.shape[0] / p.shape[1]) ** 0.5)


def orthogonalise(g: Tensor) -> Tensor:
    """Return the nearest matrix with singular values near one."""
    x = g.bfloat16() / (g.norm() + 1e-7)
    flipped = x.shape[0] > x.shape[1]
    x = x.T if flipped else x
    for _ in range(5):
        gram = x @ x.T
        x = 3.4445 * x + (-4.7750 * gram + 2.0315 * gram @ gram) @ x
    return (x.T if flipped else x).to(g.dtype)


def quantise(weight: Tensor) -> tuple[Tensor, Tensor]:
    """Pack a matrix into 4-bit groups: two values a byte, one fp16 scale per group of 32."""
    groups = weight.float().reshape(-1, GROUP)
    scale = (groups.abs().amax(1, keepdim=True) / 7).clamp_min(1e-8).half()
    values = (groups / scale.float()).round().clamp(-8, 7).to(torch.int16).add(8).reshape(-1, 2)
    return (values[:, 0] | values[:, 1] << 4).to(torch.uint8), scale.flatten()


def dequantise(packed: Tensor, scale: Tensor, shape: tuple[int, ...]) -> Tensor:
    """Undo `quantise`."""
    values = torch.stack((packed & 15, packed >> 4), 1).to(torch.int16) - 8
    return (values.reshape(-1, GROUP).float() * scale.float()[:, None]).reshape(shape)
