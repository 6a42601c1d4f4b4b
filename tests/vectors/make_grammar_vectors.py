"""Write grammar.json (R-70) with the pinned grammar library and the devnet model's tokenizer; nothing of retally.

Which tokens are allowed is found without the library's token masks: each token's bytes are tried by themselves.
Usage: python tests/vectors/make_grammar_vectors.py
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import xgrammar
from tokenizers import Tokenizer

ROOT = Path(__file__).resolve().parent.parent.parent
MODEL = ROOT / "sdk" / "retally" / "devnet" / "model"
END = 1
PRINTABLE = [*range(ord("!"), ord("~") + 1), *range(0xA1, 0xAD), *range(0xAE, 256)]
OTHERS = [byte for byte in range(256) if byte not in PRINTABLE]
BYTE_OF = {chr(byte): byte for byte in PRINTABLE} | {chr(256 + n): byte for n, byte in enumerate(OTHERS)}


def of_schema(schema: dict[str, Any]) -> dict[str, Any]:
    """The form of one schema."""
    return {"type": "json_schema", "json_schema": schema, "max_whitespace_cnt": 1}


def of_call(name: str, parameters: dict[str, Any]) -> dict[str, Any]:
    """The form of one call."""
    begin = f'<tool_call>\n{{"name": "{name}", "arguments": '
    return {"type": "tag", "begin": begin, "content": of_schema(parameters), "end": "}\n</tool_call>"}


PERSON = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "maxLength": 6},
        "age": {"type": "integer", "minimum": 0, "maximum": 120},
    },
    "required": ["name", "age"],
}
PLACE = {"type": "object", "properties": {"place": {"enum": ["here", "there"]}}, "required": ["place"]}
CALLS = {
    "type": "tags_with_separator",
    "tags": [of_call("look_up", PLACE), of_call("stop", {"type": "object", "properties": {}})],
    "separator": "\n",
    "at_least_one": True,
    "stop_after_first": False,
}
AUTO = {"type": "triggered_tags", "triggers": ["<tool_call>"], "tags": [of_call("look_up", PLACE)]}
#: What a form is, and an answer that follows it; answers marked False go astray at their last token.
CASES: list[tuple[dict[str, Any], str, bool]] = [
    (of_schema(PERSON), '{"name": "Ada", "age": 36}', True),
    (of_schema(PERSON), '{"age": 36', False),
    (of_schema({"type": "object", "additionalProperties": True}), '{"a": [1, {"b": null}], "\u00e9": "\\u00e9"}', True),
    (of_schema({"enum": ["yes", "no"]}), '"yes"', True),
    (CALLS, '<tool_call>\n{"name": "look_up", "arguments": {"place": "there"}}\n</tool_call>', True),
    (AUTO, 'I look. <tool_call>\n{"name": "look_up", "arguments": {"place": "here"}}\n</tool_call> So.', True),
]  # fmt: skip


class Tokens:
    """The devnet model's tokens as bytes; special ones have none."""

    def __init__(self) -> None:
        self._tokenizer = Tokenizer.from_file(str(MODEL / "tokenizer.json"))
        special = {i for i, added in self._tokenizer.get_added_tokens_decoder().items() if added.special}
        known = {i: word for word, i in self._tokenizer.get_vocab(with_added_tokens=True).items()}
        self.words = ["" if i in special else known[i] for i in range(len(known))]
        self.bytes = [bytes(BYTE_OF[c] for c in word) for word in self.words]

    def encode(self, text: str) -> list[int]:
        """The ids of a text."""
        return list(self._tokenizer.encode(text, add_special_tokens=False).ids)


def allowed(matcher: xgrammar.GrammarMatcher, tokens: Tokens) -> list[int]:
    """The ids that a walk may take next."""
    found = []
    for token_id, data in enumerate(tokens.bytes):
        fits = (
            matcher.fork().accept_token(END) if token_id == END else bool(data) and matcher.fork().accept_string(data)
        )
        if fits:
            found.append(token_id)
    return found


def ranges(ids: list[int]) -> list[list[int]]:
    """Rising ids as [first, count]."""
    found: list[list[int]] = []
    for token_id in ids:
        if found and sum(found[-1]) == token_id:
            found[-1][1] += 1
        else:
            found.append([token_id, 1])
    return found


def vector(form: dict[str, Any], text: str, is_whole: bool, tokens: Tokens) -> dict[str, Any]:
    """One answer with what was allowed at each of its tokens."""
    info = xgrammar.TokenizerInfo(tokens.words, xgrammar.VocabType.BYTE_LEVEL, stop_token_ids=[])
    tag = json.dumps({"type": "structural_tag", "format": form}, separators=(",", ":"), ensure_ascii=False)
    compiled = xgrammar.GrammarCompiler(info, max_threads=1).compile_structural_tag(tag)
    matcher = xgrammar.GrammarMatcher(compiled, override_stop_tokens=[END])
    ids = tokens.encode(text) + ([END] if is_whole else [])
    steps = []
    for token_id in ids:
        steps.append(ranges(allowed(matcher, tokens)))
        if not matcher.accept_token(token_id):
            break
    return {"grammar": tag, "eos": [END], "ids": ids[: len(steps)], "isWhole": is_whole, "allowed": steps}


def main() -> None:
    """Write the vectors beside this file."""
    tokens = Tokens()
    cases = [vector(*case, tokens) for case in CASES]
    target = Path(__file__).with_name("grammar.json")
    content = {"library": "xgrammar 0.2.8", "tokenizer": "retally/devnet-4m", "cases": cases}
    target.write_text(json.dumps(content, separators=(",", ":"), ensure_ascii=True) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
