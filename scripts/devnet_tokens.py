"""The tokenizer of the devnet's model, and its corpus as token ids."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from random import Random

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers

from devnet_corpus import Chat, Corpus

VOCABULARY = 4096
BOS, END, SYSTEM, USER, ASSISTANT, PAD = "<|bos|>", "<|end|>", "<|system|>", "<|user|>", "<|assistant|>", "<|pad|>"
SPECIAL = (BOS, END, SYSTEM, USER, ASSISTANT, PAD)

#: Token ids, and which of them the model itself would write.
Document = tuple[list[int], list[bool]]


def train_tokenizer(corpus: Corpus, path: Path) -> Tokenizer:
    """Return the byte-level BPE tokenizer, trained once and kept."""
    if path.exists():
        return Tokenizer.from_file(str(path))
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=list(SPECIAL),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
    )
    tokenizer.train_from_iterator((text for chat in corpus.chats for _, text in chat), trainer)
    # Plain text begins with <|bos|>, as in training; a chat's template writes it itself.
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{BOS} $A", special_tokens=[(BOS, special_id(tokenizer, BOS))]
    )
    tokenizer.save(str(path))
    return tokenizer


def special_id(tokenizer: Tokenizer, token: str) -> int:
    """Return the id of a special token."""
    token_id = tokenizer.token_to_id(token)
    if token_id is None:
        raise ValueError(f"the tokenizer lacks {token}")
    return token_id


def encode_chat(tokenizer: Tokenizer, chat: Chat) -> Document:
    """Return the ids of a chat as the template writes them, and which of them the model itself would write."""
    ids, answered = [special_id(tokenizer, BOS)], [False]
    for role, text in chat:
        content = [*tokenizer.encode(text, add_special_tokens=False).ids, special_id(tokenizer, END)]
        ids += [special_id(tokenizer, f"<|{role}|>"), *content]
        answered += [False, *([role == "assistant"] * len(content))]
    return ids, answered


def encode_text(tokenizer: Tokenizer, text: str) -> Document:
    """Return the ids of a plain text."""
    ids = [
        special_id(tokenizer, BOS),
        *tokenizer.encode(text, add_special_tokens=False).ids,
        special_id(tokenizer, END),
    ]
    return ids, [True] * len(ids)


def rows(documents: list[Document], length: int, random: Random) -> Iterator[list[int]]:
    """Yield rows of whole documents, each row beginning with a document's start; only its last document is cut."""
    row: list[int] = []
    while True:
        for index in random.sample(range(len(documents)), len(documents)):
            row += documents[index][0]
            if len(row) > length:
                yield row[: length + 1]
                row = []
