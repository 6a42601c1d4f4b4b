"""What the demo's payer asks: everyday questions about Python, in an order that the seed decides."""

from __future__ import annotations

import random

QUESTIONS = (
    "What is a generator?",
    "What is a list comprehension?",
    "How do I copy an object?",
    "What is the global interpreter lock?",
    "How do I read a file line by line?",
    "What is a decorator?",
    "What is an iterator?",
    "How do I sort a dictionary by value?",
    "What does the logging module do?",
    "What is a context manager?",
    "How do I write a class?",
    "What is an abstract base class?",
    "How do I catch an exception?",
    "What is a coroutine?",
    "What is the difference between a tuple and a list?",
    "How do modules share global variables?",
    "What is duck typing?",
    "How do I run a subprocess?",
    "What is a namespace?",
    "How do I format a string?",
)


def draw_prompts(seed: int, count: int) -> list[tuple[str, int]]:
    """`count` pairs of a question and the client seed of its answer."""
    draw = random.Random(seed)
    return [(draw.choice(QUESTIONS), draw.getrandbits(31)) for _ in range(count)]
