"""Write sampler.json from the rules' text alone (R-27 to R-29): plain Python, no numpy, nothing of retally.

Usage: python tests/vectors/make_sampler_vectors.py
"""

from __future__ import annotations

import json
import math
import random
import struct
from pathlib import Path
from typing import Any

from Crypto.Hash import keccak

MASK = (1 << 64) - 1
ONE = 1_000_000


def fp32(value: float) -> float:
    """Round once to fp32."""
    return float(struct.unpack("<f", struct.pack("<f", value))[0])


def fp32_hex(value: float) -> str:
    """Return the fp32 bits."""
    return struct.pack(">f", value).hex()


def mantissa(seed: bytes, position: int, token: int) -> int:
    """Return the 53 bits behind the uniform."""
    key = int.from_bytes(keccak.new(digest_bits=256, data=seed + position.to_bytes(4, "big")).digest()[:8], "big")
    x = (key + (token + 1) * 0x9E3779B97F4A7C15) & MASK
    z = ((x ^ (x >> 30)) * 0xBF58476D1CE4E5B9) & MASK
    z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & MASK
    return (z ^ (z >> 31)) >> 11


def gumbel(seed: bytes, position: int, token: int) -> float:
    """Return the fp32 noise."""
    return fp32(-math.log(-math.log((mantissa(seed, position, token) + 0.5) * 2.0**-53)))


def adjust(score: float, token: int, case: dict[str, Any]) -> float:
    """Apply bias, penalties and min_tokens to one log-probability, rounding after each step."""
    p, answer = case["params"], case["answer"]
    score = fp32(score + fp32(p["logitBias"].get(str(token), 0) / ONE))
    penalty = fp32(p["repetitionPenalty"] / ONE)
    if p["repetitionPenalty"] != ONE and token in case["prompt"] + answer:
        score = fp32(score / penalty) if score > 0 else fp32(score * penalty)
    if count := answer.count(token):
        score = fp32(score - fp32(fp32(p["frequencyPenalty"] / ONE) * count))
        score = fp32(score - fp32(p["presencePenalty"] / ONE))
    return -math.inf if len(answer) < p["minTokens"] and token in case["eos"] else score


def choose(case: dict[str, Any]) -> tuple[int, list[int]]:
    """Return the named token and the tokens that were kept."""
    p = case["params"]
    scores = {token: adjust(score, token, case) for token, score in zip(case["ids"], case["logprobs"], strict=True)}
    if p["temperature"]:
        scores = {token: fp32(score / fp32(p["temperature"] / ONE)) for token, score in scores.items()}
    order = sorted(scores, key=lambda token: (-scores[token], token))
    if not p["temperature"]:
        return order[0], order[:1]
    kept = order[: p["topK"]] if p["topK"] else order
    weights = [math.exp(scores[token] - scores[order[0]]) for token in kept]
    if p["topP"] < ONE:
        size, mass = 0, 0.0
        while mass < p["topP"] / ONE * math.fsum(weights):
            mass += weights[size]
            size += 1
        kept = kept[: max(size, 1)]
    kept = [t for t in kept if t == order[0] or math.exp(scores[t] - scores[order[0]]) >= p["minP"] / ONE]
    noised = {t: fp32(scores[t] + gumbel(bytes.fromhex(case["seed"]), len(case["answer"]), t)) for t in kept}
    return min(noised, key=lambda token: (-noised[token], token)), sorted(kept)


def random_case(source: random.Random, number: int) -> dict[str, Any]:
    """Return one case; every third has many equal scores."""
    ids = sorted(source.sample(range(5000), 40))
    raw = [source.gauss(0, 3) for _ in ids]
    if number % 3 == 0:
        raw = [round(value) for value in raw]
    total = math.log(math.fsum(math.exp(value) for value in raw))
    params = {
        "temperature": source.choice([0, 300_000, ONE, ONE, 1_700_000]),
        "topP": source.choice([ONE, 950_000, 500_000, 1]),
        "minP": source.choice([0, 0, 50_000]),
        "topK": source.choice([0, 0, 1, 5, 20]),
        "repetitionPenalty": source.choice([ONE, 1_200_000, 800_000]),
        "frequencyPenalty": source.choice([0, 700_000, -500_000]),
        "presencePenalty": source.choice([0, 400_000]),
        "minTokens": source.choice([0, 0, 30]),
        "maxTokens": 64,
        "logitBias": source.choice([{}, {str(ids[3]): 2_500_000, str(ids[9]): -100_000_000}]),
        "stop": [],
        "endpoint": "text",
        "templateDate": "2026-01-01",
        "promptLogprobs": 0,
        "responseFormat": {"type": "text"},
        "toolChoice": {"type": "none"},
    }
    answer = [source.choice(ids) for _ in range(source.choice([0, 5, 29]))]
    prompt = [source.choice(ids) for _ in range(10)]
    logprobs = [fp32(value - total) for value in raw]
    case = {"seed": source.randbytes(32).hex(), "params": params, "ids": ids, "logprobs": logprobs}
    case |= {"prompt": prompt, "answer": answer, "eos": [ids[0], ids[7]]}
    token, kept = choose(case)
    return case | {"kept": kept, "token": token}


def main() -> None:
    """Write the vectors beside this file."""
    source = random.Random(20260101)
    noise = []
    for _ in range(40):
        seed, position = source.randbytes(32), source.choice([0, 1, 31, 1023, (1 << 32) - 1])
        token = source.choice([0, 1, 4095, 151_935, source.randrange(1 << 20)])
        bits = mantissa(seed, position, token)
        gumbels = fp32_hex(gumbel(seed, position, token))
        noise.append({"seed": seed.hex(), "position": position, "id": token, "bits": str(bits), "gumbel": gumbels})
    cases = [random_case(source, number) for number in range(60)]
    target = Path(__file__).with_name("sampler.json")
    target.write_text(json.dumps({"noise": noise, "choices": cases}, separators=(",", ":")) + "\n")


if __name__ == "__main__":
    main()
