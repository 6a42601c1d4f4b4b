"""Grammar masks with the library that the engine ships: which tokens an answer of a given form allows next (R-70).

Walks are the same in the engine's sampler and in a replay: a grammar, the ids so far, nothing else.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Collection, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from tokenizers import Tokenizer

from retally.errors import BadRequest, RetallyError
from retally.protocol.grammar import Words

if TYPE_CHECKING:
    import xgrammar

#: Part of the sampler: another version may allow other tokens.
LIBRARY = "xgrammar"
LIBRARY_VERSION = "0.2.8"
CACHE_BYTES = 256 << 20


class GrammarLibraryMissing(RetallyError):
    """The pinned grammar library is not installed here, so answers of a given form can be neither made nor replayed."""

    code = "grammar_library_missing"
    status = 503

    def __init__(self, found: str) -> None:
        super().__init__(
            f"answers of a given form need {LIBRARY} {LIBRARY_VERSION}, here is {found}",
            hint=f"pip install {LIBRARY}=={LIBRARY_VERSION}",
        )
        self.found = found


class GrammarBook:
    """Compiles grammars for one model's tokenizer; safe for threads. The library is loaded at the first grammar."""

    def __init__(self, tokenizer: Callable[[], Tokenizer]) -> None:
        self._tokenizer = tokenizer
        self._lock = threading.Lock()
        self._compiler: xgrammar.GrammarCompiler | None = None
        self._words = 0

    @classmethod
    def load(cls, model_dir: Path | str) -> GrammarBook:
        """The book of a model's folder, which is read at the first grammar."""
        return cls(lambda: _read(Path(model_dir) / "tokenizer.json"))

    def start(self, grammar: str, eos_ids: Collection[int], ids: Sequence[int] = ()) -> Walk:
        """A walk that has read `ids` already; raises BadRequest where the library refuses the grammar."""
        if not eos_ids:
            raise BadRequest("this model has no end-of-sequence id, which an answer of a given form needs")
        walk = Walk(*self._compiled(grammar), sorted(eos_ids))
        for token in ids:
            walk.push(token)
        return walk

    def masks(
        self, grammar: str, eos_ids: Collection[int], prefix_ids: Sequence[int], output_ids: Sequence[int]
    ) -> list[Words | None]:
        """The mask of each output token; None where every token is allowed."""
        walk = self.start(grammar, eos_ids, prefix_ids)
        rows = []
        for token in output_ids:
            rows.append(walk.mask())
            walk.push(token)
        return rows

    def check(self, grammar: str, eos_ids: Collection[int]) -> None:
        """Raises BadRequest where the library refuses the grammar or no answer can begin."""
        if self.start(grammar, eos_ids).mask() is None:
            raise BadRequest("no answer fits this schema", param="response_format", code="unsupported_schema")

    def _compiled(self, grammar: str) -> tuple[xgrammar.CompiledGrammar, int]:
        with self._lock:
            if self._compiler is None:
                self._compiler, self._words = _compiler(self._tokenizer())
            try:
                return self._compiler.compile_structural_tag(grammar), self._words
            except (RuntimeError, ValueError, TypeError) as error:
                said = (str(error).strip().splitlines() or [""])[0].rpartition(": ")[2]
                raise BadRequest(
                    f"the answer's form can't be enforced: {said[:200]}",
                    param="response_format",
                    code="unsupported_schema",
                    hint="simplify the schema; docs/VERIFICATION.md names what is enforced",
                ) from error


class Walk:
    """One answer on its way through a grammar. After a token that was not allowed, everything is."""

    def __init__(self, compiled: xgrammar.CompiledGrammar, words: int, eos_ids: list[int]) -> None:
        import xgrammar

        self._matcher = xgrammar.GrammarMatcher(compiled, override_stop_tokens=eos_ids)
        self._words = words
        self._is_free = False

    def push(self, token: int) -> None:
        """Take the answer's next token."""
        if self._is_free:
            return
        known = 0 <= token < 32 * self._words
        self._is_free = self._matcher.is_terminated() or not known or not self._matcher.accept_token(token)

    def mask(self) -> Words | None:
        """Which tokens may come next; None for all of them, also where the grammar has come to a dead end."""
        if self._is_free or self._matcher.is_terminated():
            return None
        row = np.zeros((1, self._words), dtype=np.int32)
        self._matcher.fill_next_token_bitmask(row)
        if not row.any():
            self._is_free = True
            return None
        return np.asarray(row[0])


def check_library() -> None:
    """Raises GrammarLibraryMissing unless the pinned version is installed; loads nothing."""
    try:
        found = version(LIBRARY)
    except PackageNotFoundError as error:
        raise GrammarLibraryMissing("none") from error
    if found != LIBRARY_VERSION:
        raise GrammarLibraryMissing(found)


def _read(path: Path) -> Tokenizer:
    if not path.exists():
        raise BadRequest(f"answers of a given form need the model's tokenizer as {path}")
    return Tokenizer.from_file(str(path))


def _compiler(tokenizer: Tokenizer) -> tuple[xgrammar.GrammarCompiler, int]:
    check_library()
    # Imported here: it brings torch along, which a node that never sees a grammar has no use for.
    import xgrammar

    words = _vocabulary(tokenizer)
    kind = xgrammar.TokenizerInfo._detect_metadata_from_hf(tokenizer.to_str())
    # The ends of an answer are each walk's own.
    info = xgrammar.TokenizerInfo(words, stop_token_ids=[], **kind)
    compiler = xgrammar.GrammarCompiler(info, max_threads=1, cache_limit_bytes=CACHE_BYTES)
    return compiler, (len(words) + 31) // 32


def _vocabulary(tokenizer: Tokenizer) -> list[str]:
    """Tokens by id. A special one has no text: no grammar allows it, since no reader sees it."""
    known = tokenizer.get_vocab(with_added_tokens=True)
    words = [""] * (max(known.values()) + 1)
    for word, token_id in known.items():
        words[token_id] = word
    for token_id, added in tokenizer.get_added_tokens_decoder().items():
        if added.special:
            words[token_id] = ""
    return words
