"""Prompts to ids, ids to text, and stop strings (R-31, R-33)."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from retally.errors import BadRequest
from retally.inference.chat_format import ChatFormat
from retally.inference.model_files import ModelFiles
from retally.inference.stop_matcher import StopMatcher

MODEL = Path(__file__).parents[2] / "sdk/retally/devnet/model"
DAY = "2026-11-21"


@pytest.fixture(scope="module")
def chat() -> ChatFormat:
    return ChatFormat.load(MODEL)


def user(content: object) -> dict[str, object]:
    return {"messages": [{"role": "user", "content": content}]}


class TestRender:
    def test_writes_roles_and_asks_for_an_answer(self, chat: ChatFormat) -> None:
        ids = chat.render(user("Hi there"), DAY)
        assert "".join(chat.token_text(token) for token in ids) == "<|bos|><|user|>Hi there<|end|><|assistant|>"

    def test_plain_text_begins_as_in_training(self, chat: ChatFormat) -> None:
        ids = chat.render({"prompt": "Hi"}, DAY)
        assert chat.token_text(ids[0]) == "<|bos|>"
        assert chat.decode(ids) == "Hi"

    def test_ids_pass_through_if_they_exist(self, chat: ChatFormat) -> None:
        assert chat.render({"promptIds": [5, 6]}, DAY) == [5, 6]
        with pytest.raises(BadRequest, match="below"):
            chat.render({"promptIds": [chat.vocab_size]}, DAY)

    def test_joins_text_parts(self, chat: ChatFormat) -> None:
        parts = [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]
        assert chat.render(user(parts), DAY) == chat.render(user("a\nb"), DAY)

    def test_refuses_pictures_and_unknown_roles(self, chat: ChatFormat) -> None:
        with pytest.raises(BadRequest, match="text parts"):
            chat.render(user([{"type": "image_url"}]), DAY)
        with pytest.raises(BadRequest, match="unknown role"):
            chat.render({"messages": [{"role": "wizard", "content": "x"}]}, DAY)

    @pytest.mark.parametrize(
        "prompt",
        [{}, {"messages": [5]}, {"messages": 5}, {"prompt": 5}, {"promptIds": ["x"]}, {"promptIds": None}],
        ids=str,
    )
    def test_refuses_what_is_no_prompt(self, chat: ChatFormat, prompt: dict[str, object]) -> None:
        with pytest.raises(BadRequest):
            chat.render(prompt, "2026-11-21")

    def test_a_template_sees_the_pinned_date_and_no_secrets(self, tmp_path: Path) -> None:
        for name in ("tokenizer.json", "config.json"):
            (tmp_path / name).write_bytes((MODEL / name).read_bytes())
        (tmp_path / "chat_template.jinja").write_text("{{ strftime_now('%Y %B %d') }}")
        assert ChatFormat.load(tmp_path).decode(ChatFormat.load(tmp_path).render(user(""), DAY)) == "2026 November 21"
        (tmp_path / "chat_template.jinja").write_text("{{ messages.__class__.__mro__ }}")
        with pytest.raises(BadRequest, match="template refuses"):
            ChatFormat.load(tmp_path).render(user(""), DAY)

    def test_a_model_without_a_template_serves_text_only(self, tmp_path: Path) -> None:
        (tmp_path / "tokenizer.json").write_bytes((MODEL / "tokenizer.json").read_bytes())
        bare = ChatFormat.load(tmp_path)
        assert bare.render({"prompt": "Hi"}, DAY)
        with pytest.raises(BadRequest, match="no chat template"):
            bare.render(user("Hi"), DAY)


class TestText:
    TEXTS = ("Plain words, then more.", "caf\u00e9 \u65e5\u672c\u8a9e \U0001f600 end", "  spaces\n\n\ttabs  ")

    @pytest.mark.parametrize("text", TEXTS)
    def test_streaming_gives_the_same_text(self, chat: ChatFormat, text: str) -> None:
        ids = chat.render({"prompt": text}, DAY)
        reader = chat.detokenizer()
        assert "".join(reader.push([token]) for token in ids) + reader.finish() == text == chat.decode(ids)

    def test_half_a_character_is_held_back_and_shown_at_the_end(self, chat: ChatFormat) -> None:
        ids = [token for token in chat.render({"prompt": "\U0001f600"}, DAY) if token != 0]
        reader = chat.detokenizer()
        assert reader.push(ids[:-1]) == ""
        assert reader.finish() == "\ufffd"

    def test_bytes_of_tokens_join_to_the_text(self, chat: ChatFormat) -> None:
        text = "na\u00efve \u20ac \u65e5"
        ids = chat.render({"prompt": text}, DAY)[1:]
        assert b"".join(chat.token_bytes(token) for token in ids).decode() == text

    def test_end_of_sequence_is_known(self, chat: ChatFormat) -> None:
        assert [chat.token_text(token) for token in chat.eos_ids] == ["<|end|>"]


class TestStops:
    def test_cuts_before_the_first_to_complete(self) -> None:
        matcher = StopMatcher(["abcd", "bc"])
        assert matcher.push("xxabcd yy") == "xxa"
        assert matcher.stopped
        assert matcher.push("more") == ""

    def test_holds_back_what_may_become_a_stop(self) -> None:
        matcher = StopMatcher(["STOP"])
        assert [matcher.push(part) for part in ("a ST", "OX S", "TO")] == ["a ", "STOX ", ""]
        assert matcher.finish() == "STO"
        assert not matcher.stopped

    def test_any_cutting_of_the_stream_shows_the_same(self) -> None:
        text, source = "one two\nthree aab four", random.Random(5)
        for _ in range(200):
            matcher = StopMatcher(["aab", "ree a", "zzz"])
            cuts = sorted(source.sample(range(len(text)), 5))
            parts = [text[a:b] for a, b in zip([0, *cuts], [*cuts, len(text)], strict=True)]
            assert "".join(matcher.push(part) for part in parts) == "one two\nth"

    def test_a_continuation_reads_the_earlier_tokens_again(self, chat: ChatFormat) -> None:
        ids = chat.render({"prompt": "alpha beta gamma STOP delta"}, DAY)[1:]
        whole = chat.answer_text(["a STOP"])
        shown = []
        for token in ids:
            shown.append(whole.push(token))
            if whole.stopped:
                break
        assert "".join(shown) == "alpha beta gamm"
        for cut in range(len(shown)):
            again = chat.answer_text(["a STOP"])
            for token in ids[:cut]:
                again.push(token)
            assert [again.push(token) for token in ids[cut : len(shown)]] == shown[cut:]
            assert again.stopped

    def test_text_held_back_comes_at_the_end(self, chat: ChatFormat) -> None:
        answer = chat.answer_text(["gamma STOP"])
        shown = "".join(answer.push(token) for token in chat.render({"prompt": "beta gamma ST"}, DAY)[1:])
        assert shown + answer.finish() == "beta gamma ST"


class TestModelFiles:
    def test_the_shipped_model_is_what_its_manifest_says(self) -> None:
        files = ModelFiles.load(MODEL)
        assert files.changed_files() == []
        assert files.name == "retally/devnet-4m"
        assert files.max_context == 1024
        assert len(files.model_id) == 32

    def test_names_changed_files(self, tmp_path: Path) -> None:
        (tmp_path / "config.json").write_text("{}")
        manifest = ModelFiles.describe(tmp_path, "a/b", 10)
        (tmp_path / "config.json").write_text("{ }")
        assert ModelFiles(tmp_path, manifest).changed_files() == ["config.json"]

    def test_a_folder_without_a_manifest_is_refused(self, tmp_path: Path) -> None:
        with pytest.raises(BadRequest, match=r"manifest\.json"):
            ModelFiles.load(tmp_path)
