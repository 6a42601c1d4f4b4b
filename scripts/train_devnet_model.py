"""Train the devnet's small model from the Python documentation; resumable, prints progress and held-out bits per byte.

Usage: scripts/train_devnet_model.py [--minutes 55] [--threads 1] [--fresh]
"""

from __future__ import annotations

import argparse
import gzip
import json
import math
import re
import time
from dataclasses import dataclass
from pathlib import Path
from random import Random

import torch
from safetensors.torch import save_file
from tokenizers import Tokenizer
from torch import Tensor
from torch.nn import functional

from devnet_corpus import Chat, Corpus, build_corpus
from devnet_network import HeadLoss, Llama, Muon, Shape, quantise
from devnet_tokens import BOS, END, PAD, Document, encode_chat, encode_text, rows, special_id, train_tokenizer
from retally.inference.model_files import ModelFiles

ROOT = Path(__file__).resolve().parent.parent
CACHE = ROOT / ".cache/devnet-model"
MODEL = ROOT / "sdk/retally/devnet/model"
TOKENS_A_STEP = 8192
EARLIER_AT = 0.3
LONG_ROWS_FROM = 0.8
EMA_STEPS = 60


def bits_per_byte(model: Llama, tokenizer: Tokenizer, chats: list[Chat], limit: int | None = None) -> float:
    """Return the bits that the model needs per byte of held-out answers, their ends included."""
    nats, size = 0.0, 0
    model.eval()
    for chat in chats[:limit]:
        ids, answered = encode_chat(tokenizer, chat)
        size += sum(len(text.encode()) for role, text in chat if role == "assistant")
        with torch.no_grad():
            logprobs = functional.log_softmax(model(torch.tensor([ids[:-1]])).float(), -1)[0]
        chosen = logprobs.gather(1, torch.tensor(ids[1:])[:, None])[:, 0]
        nats -= float(chosen[torch.tensor(answered[1:])].sum())
    model.train()
    return nats / math.log(2) / size


@dataclass
class Run:
    """The state of a training run, saved and resumed as a whole."""

    model: Llama
    average: Llama
    muon: Muon
    adam: torch.optim.AdamW
    seconds: float = 0.0
    step: int = 0

    @classmethod
    def fresh(cls) -> Run:
        """Start from random weights."""
        torch.manual_seed(7)
        model, average = Llama(Shape()), Llama(Shape())
        average.load_state_dict(model.state_dict())
        matrices = [p for name, p in model.named_parameters() if p.dim() == 2 and "embed" not in name]
        others = [p for name, p in model.named_parameters() if p.dim() != 2 or "embed" in name]
        adam = torch.optim.AdamW(others, lr=3e-3, betas=(0.9, 0.95), weight_decay=0.0)
        return cls(model, average, Muon(matrices, lr=0.02), adam)

    def save(self, path: Path) -> None:
        """Write the checkpoint in one move."""
        state = {name: getattr(self, name).state_dict() for name in ("model", "average", "muon", "adam")}
        torch.save({**state, "seconds": self.seconds, "step": self.step}, path.with_suffix(".part"))
        path.with_suffix(".part").replace(path)

    def load(self, path: Path) -> None:
        """Continue from a checkpoint."""
        state = torch.load(path, weights_only=True)
        for name in ("model", "average", "muon", "adam"):
            getattr(self, name).load_state_dict(state[name])
        self.seconds, self.step = state["seconds"], state["step"]

    def learn(self, batch: Tensor, rate: float) -> float:
        """Take one step and return its loss in nats a token."""
        for optimiser, peak in ((self.muon, 0.02), (self.adam, 3e-3)):
            for group in optimiser.param_groups:
                group["lr"] = peak * rate
        with torch.autocast("cpu", dtype=torch.bfloat16):
            features = self.model.features(batch[:, :-1]).flatten(0, 1).float()
        loss = HeadLoss.apply(features, self.model.embed_tokens.weight, batch[:, 1:].flatten())
        self.model.zero_grad(set_to_none=True)
        loss.backward()
        self.muon.step()
        self.adam.step()
        self.step += 1
        with torch.no_grad():
            keep = 1 - 1 / min(self.step, EMA_STEPS)
            for slow, fast in zip(self.average.parameters(), self.model.parameters(), strict=True):
                slow.lerp_(fast, 1 - keep)
        return float(loss.detach())


def learning_rate(progress: float, step: int) -> float:
    """Warm up, hold, then fall linearly over the last half of the time."""
    return min(1.0, (step + 1) / 60, max(0.02, 2 * (1 - progress)))


def export_weights(model: Llama, folder: Path) -> None:
    """Write model.safetensors in bf16."""
    state = {f"model.{name}": value.to(torch.bfloat16).contiguous() for name, value in model.state_dict().items()}
    save_file(state, folder / "model.safetensors", {"format": "pt"})
    (folder / "model.safetensors").chmod(0o644)


def export_earlier(model: Llama) -> None:
    """Write an earlier checkpoint in 4-bit groups, from which the devnet makes its cheaper weights."""
    state: dict[str, Tensor] = {}
    for name, value in model.state_dict().items():
        if value.dim() == 2:
            state[f"model.{name}.packed"], state[f"model.{name}.scale"] = quantise(value)
        else:
            state[f"model.{name}"] = value.to(torch.bfloat16)
    (MODEL / "earlier").mkdir(exist_ok=True)
    save_file(state, MODEL / "earlier" / "weights.safetensors", {"format": "pt"})
    (MODEL / "earlier" / "weights.safetensors").chmod(0o644)


def export_evaluation(corpus: Corpus) -> None:
    """Write the words of the training text and the held-out chats: enough to judge the model without the corpus."""
    texts = [text for chat in corpus.chats for _, text in chat] + corpus.texts
    words = sorted({word.lower() for text in texts for word in re.findall(r"[A-Za-z]+", text)})
    folder = MODEL / "evaluation"
    folder.mkdir(exist_ok=True)
    for name, content in (("words", words), ("held_out", corpus.held_out)):
        # A fixed time, so that the same content gives the same bytes.
        (folder / f"{name}.json.gz").write_bytes(gzip.compress(json.dumps(content).encode(), mtime=0))


def export_settings(tokenizer: Tokenizer) -> None:
    """Write the small files of the model folder."""
    bos, eos, pad = (special_id(tokenizer, token) for token in (BOS, END, PAD))
    names = {"bos_token": BOS, "eos_token": END, "pad_token": PAD}
    files = {
        "config.json": Shape().to_config(bos, eos, pad),
        "generation_config.json": {"bos_token_id": bos, "eos_token_id": eos, "pad_token_id": pad,
                                   "do_sample": True, "temperature": 0.8, "top_p": 0.95},
        "tokenizer_config.json": {"tokenizer_class": "PreTrainedTokenizerFast", "model_max_length": 1024, **names,
                                  "clean_up_tokenization_spaces": False, "add_bos_token": False},
    }  # fmt: skip
    for name, content in files.items():
        (MODEL / name).write_text(json.dumps(content, indent=2) + "\n")


def export_manifest() -> None:
    """Write the manifest whose hash is the model's id (R-12)."""
    manifest = ModelFiles.describe(MODEL, "retally/devnet-4m", Shape().max_position_embeddings)
    (MODEL / "manifest.json").write_text(json.dumps(manifest, indent=2) + "\n")


def train(run: Run, documents: list[Document], tokenizer: Tokenizer, corpus: Corpus, minutes: float) -> None:
    """Train until the time is used up, saving and exporting on the way."""
    random = Random(run.step)
    length = 0
    saved = said = time.monotonic()
    budget = minutes * 60
    while run.seconds < budget:
        begun = time.monotonic()
        progress = run.seconds / budget
        wanted = 1024 if progress > LONG_ROWS_FROM else 384
        if wanted != length:
            length, source = wanted, rows(documents, wanted, random)
        batch = torch.tensor([next(source) for _ in range(max(1, TOKENS_A_STEP // length))])
        loss = run.learn(batch, learning_rate(progress, run.step))
        run.seconds += time.monotonic() - begun
        if progress < EARLIER_AT <= run.seconds / budget:
            export_earlier(run.average)
        if time.monotonic() - said > 20:
            said = time.monotonic()
            print(
                f"{progress:6.1%} step {run.step} loss {loss:.3f} ({run.seconds / run.step:.2f} s a step)", flush=True
            )
        if time.monotonic() - saved > 240:
            saved = time.monotonic()
            run.save(CACHE / "checkpoint.pt")
            export_weights(run.average, CACHE)
            print(
                f"held-out bits per byte {bits_per_byte(run.average, tokenizer, corpus.held_out, 150):.3f}", flush=True
            )


def main() -> None:
    """Build the corpus, train and export."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=55.0, help="training time, over all resumed runs")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--fresh", action="store_true", help="forget the checkpoint")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    corpus = build_corpus(CACHE)
    tokenizer = train_tokenizer(corpus, MODEL / "tokenizer.json")
    export_evaluation(corpus)
    export_settings(tokenizer)
    documents = [encode_chat(tokenizer, chat) for chat in corpus.chats] + [
        encode_text(tokenizer, text) for text in corpus.texts
    ]
    run = Run.fresh()
    checkpoint = CACHE / "checkpoint.pt"
    if checkpoint.exists() and not options.fresh:
        run.load(checkpoint)
    size = sum(p.numel() for p in run.model.parameters())
    print(
        f"{size:,} parameters, {sum(len(ids) for ids, _ in documents):,} training tokens, {run.step} steps done",
        flush=True,
    )
    train(run, documents, tokenizer, corpus, options.minutes)
    run.save(checkpoint)
    export_weights(run.average, MODEL)
    export_manifest()
    print(f"held-out bits per byte {bits_per_byte(run.average, tokenizer, corpus.held_out):.3f}", flush=True)


if __name__ == "__main__":
    main()
