"""From a signed prompt to token ids and from token ids to text, the same on every machine (no transformers)."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from datetime import date
from functools import cached_property
from pathlib import Path
from typing import Any, NoReturn

from jinja2 import Template, TemplateError
from jinja2.sandbox import ImmutableSandboxedEnvironment
from tokenizers import Tokenizer

from retally.errors import BadRequest
from retally.inference.detokenizer import Detokenizer, TokenTexts
from retally.inference.grammar import GrammarBook
from retally.inference.stop_matcher import StopMatcher
from retally.protocol.embeddings import inputs_of
from retally.protocol.structure import CALL_BEGIN, tools_of

#: What templates and tokenizers raise over a prompt of the wrong shape, which strangers may sign and nodes commit.
_MALFORMED = (AttributeError, KeyError, TypeError, ValueError, ArithmeticError, RecursionError)


class ChatFormat:
    """A model's tokenizer and chat template."""

    def __init__(
        self,
        tokenizer: Tokenizer,
        template: Template | None,
        settings: Mapping[str, Any],
        eos: Sequence[int],
        *,
        has_tools: bool = False,
    ) -> None:
        self._tokenizer = tokenizer
        self._template = template
        self._settings = settings
        self.eos_ids = tuple(eos)
        #: Whether the template teaches the model to call tools as R-71 writes it.
        self.has_tools = has_tools
        self.grammars = GrammarBook(lambda: tokenizer)
        self.vocab_size = tokenizer.get_vocab_size(with_added_tokens=True)

    @classmethod
    def load(cls, model_dir: Path | str) -> ChatFormat:
        """Read the tokenizer, its settings and the template from a model's folder."""
        folder = Path(model_dir)
        tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
        settings = _read_json(folder / "tokenizer_config.json")
        source = settings.get("chat_template")
        if (folder / "chat_template.jinja").exists():
            source = (folder / "chat_template.jinja").read_text(encoding="utf-8")
        template = _environment().from_string(source) if isinstance(source, str) else None
        has_tools = isinstance(source, str) and CALL_BEGIN in source
        return cls(tokenizer, template, settings, _eos_ids(folder, tokenizer, settings), has_tools=has_tools)

    def render(self, prompt: Mapping[str, Any], template_date: str) -> list[int]:
        """Return the prompt's token ids; the template sees the pinned date, never the clock."""
        try:
            if "promptIds" in prompt:
                return self._checked_ids(prompt["promptIds"])
            if "prompt" in prompt:
                return list(self._tokenizer.encode(prompt["prompt"]).ids)
            if "inputs" in prompt:
                return [token for ids in self.render_inputs(prompt) for token in ids]
            return self._rendered_chat(prompt, template_date)
        except _MALFORMED as error:
            raise BadRequest(f"no prompt: {type(error).__name__}: {error}", param="prompt") from error

    def fewest_tokens(self, prompt: Mapping[str, Any]) -> int:
        """Return how many tokens the prompt has at least, by the length of its text and that of the longest token."""
        if "promptIds" in prompt:
            return len(prompt["promptIds"]) if isinstance(prompt["promptIds"], list) else 0
        texts = [prompt.get("prompt")]
        if isinstance(messages := prompt.get("messages"), list):
            texts += [message.get("content") for message in messages if isinstance(message, dict)]
        return sum(len(text) for text in texts if isinstance(text, str)) // self._longest_token

    def render_inputs(self, prompt: Mapping[str, Any]) -> list[list[int]]:
        """Return the token ids of each input of an embedding, with the tokens that the tokenizer puts around a text."""
        try:
            return [
                list(self._tokenizer.encode(item).ids) if isinstance(item, str) else self._checked_ids(item)
                for item in inputs_of(prompt)
            ]
        except _MALFORMED as error:
            raise BadRequest(f"no input: {type(error).__name__}: {error}", param="input") from error

    def detokenizer(self) -> Detokenizer:
        """Return a fresh incremental detokenizer."""
        return Detokenizer(self._token_texts)

    def answer_text(self, stops: Sequence[str]) -> AnswerText:
        """Return a fresh reader of one answer's tokens."""
        return AnswerText(self.detokenizer(), StopMatcher(stops))

    def decode(self, ids: Sequence[int]) -> str:
        """Return the text of ids, special tokens left out."""
        return str(self._tokenizer.decode(list(ids), skip_special_tokens=True))

    def token_text(self, token_id: int) -> str:
        """Return one token as text; bytes that are no character show as U+FFFD."""
        return self.token_bytes(token_id).decode("utf-8", errors="replace")

    def token_bytes(self, token_id: int) -> bytes:
        """Return the bytes that a token stands for."""
        token = self._tokenizer.id_to_token(token_id)
        if token is None:
            return b""
        if token_id in self._added_ids:
            return token.encode()
        if self._is_byte_level:
            return bytes(_BYTE_OF[c] for c in token) if all(c in _BYTE_OF for c in token) else token.encode()
        if len(token) == 6 and token.startswith("<0x") and token.endswith(">"):
            return bytes([int(token[3:5], 16)])
        return token.replace("\u2581", " ").encode()

    @cached_property
    def _token_texts(self) -> TokenTexts:
        return TokenTexts(self._tokenizer)

    @cached_property
    def _longest_token(self) -> int:
        return max(map(len, self._tokenizer.get_vocab(with_added_tokens=True)), default=1)

    @cached_property
    def _added_ids(self) -> frozenset[int]:
        return frozenset(self._tokenizer.get_added_tokens_decoder())

    @cached_property
    def _is_byte_level(self) -> bool:
        return '"ByteLevel"' in json.dumps(json.loads(self._tokenizer.to_str()).get("decoder"))

    def _checked_ids(self, ids: Sequence[int]) -> list[int]:
        if any(not 0 <= token_id < self.vocab_size for token_id in ids):
            raise BadRequest(f"prompt ids must lie below {self.vocab_size}", param="promptIds")
        return list(ids)

    def _rendered_chat(self, prompt: Mapping[str, Any], template_date: str) -> list[int]:
        if self._template is None:
            raise BadRequest("this model has no chat template", hint="use /v1/completions")
        day = date.fromisoformat(template_date)
        names = {
            key: value for key, value in self._settings.items() if key.endswith("_token") and isinstance(value, str)
        }
        try:
            text = self._template.render(
                messages=[_plain_message(message) for message in prompt["messages"]],
                tools=tools_of(prompt) or None,
                add_generation_prompt=True,
                strftime_now=day.strftime,
                date_string=day.strftime("%d %b %Y"),
                **names,
            )
        except TemplateError as error:
            raise BadRequest(f"the chat template refuses these messages: {error}", param="messages") from error
        return list(self._tokenizer.encode(text, add_special_tokens=False).ids)


class AnswerText:
    """Reads an answer token by token: what text to show, and which token completes a stop string.

    A continuation pushes all prior ids first and drops what they return.
    """

    def __init__(self, detokenizer: Detokenizer, matcher: StopMatcher) -> None:
        self._detokenizer = detokenizer
        self._matcher = matcher

    @property
    def stopped(self) -> bool:
        """Whether the last token pushed completed a stop string."""
        return self._matcher.stopped

    def push(self, token_id: int) -> str:
        """Take one token and return the text to show."""
        return self.push_all((token_id,))

    def push_all(self, ids: Sequence[int]) -> str:
        """Take several tokens and return the text to show."""
        return self._matcher.push(self._detokenizer.push(ids))

    def finish(self) -> str:
        """Return the text held back, at the answer's end."""
        if self._matcher.stopped:
            return ""
        return self._matcher.push(self._detokenizer.finish()) + self._matcher.finish()


def _bytes_of_characters() -> dict[str, int]:
    """Return the table of byte-level tokenizers, which write each byte as one printable character."""
    printable = [*range(ord("!"), ord("~") + 1), *range(ord("\xa1"), ord("\xac") + 1), *range(ord("\xae"), 256)]
    others = [byte for byte in range(256) if byte not in printable]
    return {chr(byte): byte for byte in printable} | {chr(256 + n): byte for n, byte in enumerate(others)}


_BYTE_OF = _bytes_of_characters()


def _read_json(path: Path) -> dict[str, Any]:
    if not path.exists():
        return {}
    content = json.loads(path.read_text(encoding="utf-8"))
    return content if isinstance(content, dict) else {}


def _eos_ids(folder: Path, tokenizer: Tokenizer, settings: Mapping[str, Any]) -> list[int]:
    for name in ("generation_config.json", "config.json"):
        eos = _read_json(folder / name).get("eos_token_id")
        if eos is not None:
            return [eos] if isinstance(eos, int) else list(eos)
    token_id = tokenizer.token_to_id(str(settings.get("eos_token")))
    return [] if token_id is None else [token_id]


def _plain_message(message: Mapping[str, Any]) -> dict[str, Any]:
    """Join text parts, which OpenAI allows in place of a string; templates get a call's arguments as an object."""
    if message.get("tool_calls"):
        message = {**message, "tool_calls": [_plain_call(call) for call in message["tool_calls"]]}
    content = message.get("content")
    if not isinstance(content, list):
        return dict(message)
    if any(not isinstance(part, Mapping) or part.get("type") != "text" for part in content):
        raise BadRequest("only text parts are supported", param="messages")
    return {**message, "content": "\n".join(str(part.get("text", "")) for part in content)}


def _plain_call(call: Mapping[str, Any]) -> dict[str, Any]:
    # One order of keys, whatever order they came in: the hash that signs them does not tell.
    function = call["function"]
    try:
        arguments = json.loads(function["arguments"])
    except ValueError as error:
        raise BadRequest(f"a tool call's arguments are no JSON: {error}", param="messages") from error
    return {
        "id": call["id"],
        "type": "function",
        "function": {"name": function["name"], "arguments": arguments},
    }


def _refuse(reason: str) -> NoReturn:
    raise TemplateError(reason)


def _environment() -> ImmutableSandboxedEnvironment:
    """Return the environment that chat templates are written for, without access to anything else."""
    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=["jinja2.ext.loopcontrols"]
    )
    environment.globals["raise_exception"] = _refuse
    environment.filters["tojson"] = lambda value, indent=None: json.dumps(value, ensure_ascii=False, indent=indent)
    return environment
