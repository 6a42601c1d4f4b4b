"""Report what the devnet's model is worth: sampled answers, their words, their ends and held-out bits per byte.

Usage: scripts/model_report.py [--json] [--model FOLDER] [--temperature 0.8 --top-p 0.95] [--answers 50]
"""

from __future__ import annotations

import argparse
import gzip
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file
from tokenizers import Tokenizer

from devnet_corpus import Chat
from devnet_network import Llama, Shape
from retally.inference.chat_format import ChatFormat
from retally.protocol.params import JobParams
from retally.protocol.sampler import sample_token
from train_devnet_model import MODEL, bits_per_byte

MAX_TOKENS = 300


@dataclass(frozen=True)
class Answer:
    """One sampled answer."""

    question: str
    text: str
    ended: bool
    entropy: float


def load_network(model_dir: Path) -> Llama:
    """Return the shipped weights as a network."""
    network = Llama(Shape())
    weights = load_file(model_dir / "model.safetensors")
    network.load_state_dict({name.removeprefix("model."): value.float() for name, value in weights.items()})
    network.eval()
    return network


def sample_answer(network: Llama, chat: ChatFormat, question: str, params: JobParams, seed: bytes) -> Answer:
    """Sample an answer with the protocol's own sampler."""
    prompt = chat.render({"messages": [{"role": "user", "content": question}]}, params.template_date)
    answer: list[int] = []
    entropies: list[float] = []
    while len(answer) < params.max_tokens and not set(answer[-1:]) & set(chat.eos_ids):
        with torch.no_grad():
            logits = network(torch.tensor([[*prompt, *answer]]))[0, -1].float()
        logprobs = logits.log_softmax(0)
        entropies.append(float(-(logprobs.exp() * logprobs).sum()))
        answer.append(sample_token(logits.numpy(), params, seed, len(answer), prompt, answer, chat.eos_ids))
    ended = answer[-1] in chat.eos_ids
    return Answer(question, chat.decode(answer), ended, float(np.mean(entropies)))


def words_of(texts: Sequence[str]) -> list[str]:
    """Return the words of texts, in lower case."""
    return [word.lower() for text in texts for word in re.findall(r"[A-Za-z]+", text)]


def read_evaluation(model_dir: Path, name: str) -> Any:
    """Return one of the files that training leaves for this report."""
    return json.loads(gzip.decompress((model_dir / "evaluation" / f"{name}.json.gz").read_bytes()))


def held_out_chats(model_dir: Path) -> list[Chat]:
    """Return the chats that the model was never trained on."""
    return [[(role, text) for role, text in chat] for chat in read_evaluation(model_dir, "held_out")]


def asked_questions(held_out: list[Chat], count: int) -> list[str]:
    """Return first questions about things that the model was never trained on."""
    questions = sorted({next(text for role, text in chat if role == "user") for chat in held_out})
    return Random(5).sample(questions, count)


def report(options: argparse.Namespace) -> dict[str, Any]:
    """Sample, count and return the figures."""
    held_out = held_out_chats(options.model)
    chat = ChatFormat.load(options.model)
    network = load_network(options.model)
    params = JobParams(
        max_tokens=MAX_TOKENS,
        template_date="2026-01-01",
        temperature=round(options.temperature * 1_000_000),
        top_p=round(options.top_p * 1_000_000),
    )
    tokenizer = Tokenizer.from_file(str(options.model / "tokenizer.json"))
    source = Random(9)
    questions = asked_questions(held_out, options.answers)
    answers = [sample_answer(network, chat, question, params, source.randbytes(32)) for question in questions]
    known = set(read_evaluation(options.model, "words"))
    words = words_of([answer.text for answer in answers])
    return {
        "answers": len(answers),
        "known_words": round(sum(word in known for word in words) / len(words), 4),
        "ended_itself": round(sum(answer.ended for answer in answers) / len(answers), 4),
        "mean_words": round(len(words) / len(answers), 1),
        "mean_entropy_nats": round(float(np.mean([answer.entropy for answer in answers])), 3),
        "held_out_bits_per_byte": round(bits_per_byte(network, tokenizer, held_out), 4),
        "parameters": sum(parameter.numel() for parameter in network.parameters()),
        "samples": [{"question": answer.question, "answer": answer.text} for answer in answers[:8]],
    }


def main() -> None:
    """Read the arguments and print the report."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument("--model", type=Path, default=MODEL)
    parser.add_argument("--temperature", type=float, default=0.8)
    parser.add_argument("--top-p", type=float, default=0.95)
    parser.add_argument("--answers", type=int, default=50)
    options = parser.parse_args()
    torch.set_num_threads(1)
    figures = report(options)
    if options.json:
        print(json.dumps(figures))
        return
    for sample in figures.pop("samples"):
        print(f"> {sample['question']}\n{sample['answer']}\n")
    for name, value in figures.items():
        print(f"{name.replace('_', ' '):>24}  {value}")


if __name__ == "__main__":
    main()
