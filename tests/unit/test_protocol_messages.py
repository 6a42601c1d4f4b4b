"""Strictness of signed messages, signatures, canonical JSON and parameters."""

from __future__ import annotations

from typing import Any, ClassVar

import pytest
import rfc8785
from eth_account import Account

from retally import errors
from retally.errors import BadRequest, InvalidSignature, UnsupportedParameter, VoucherTooLow, openai_envelope
from retally.protocol.eip712 import Domain, SigningKey, check_signed_by, recover
from retally.protocol.encoding import Address, Bytes32, checksum_address, keccak
from retally.protocol.job import JobParams, canonical_json, client_seed_from_int, params_hash, prompt_hash
from retally.protocol.openai_request import choices_of_body, prompt_of_body
from retally.protocol.voucher import Voucher

KEY = SigningKey(keccak(b"payer"))
NODE = SigningKey(keccak(b"node")).address
DOMAIN = Domain(31337, NODE)
ORDER = 0xFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFEBAAEDCE6AF48A03BBFD25E8CD0364141
WIRE = Voucher(KEY.address, KEY.address, NODE, 3, 10**20).to_wire()


class TestFromWire:
    def test_reads_what_it_wrote(self) -> None:
        assert Voucher.from_wire(WIRE) == Voucher(KEY.address, KEY.address, NODE, 3, 10**20)

    @pytest.mark.parametrize(
        ("change", "named"),
        [
            ({"lane": None}, "lane"),
            ({"lane": -1}, "lane"),
            ({"lane": 1 << 32}, "lane"),
            ({"lane": True}, "lane"),
            ({"lane": "3"}, "lane"),
            ({"cumulative": 5}, "cumulative"),
            ({"cumulative": "05"}, "cumulative"),
            ({"cumulative": str(1 << 96)}, "cumulative"),
            ({"cumulative": "-1"}, "cumulative"),
            ({"payer": "0x12"}, "payer"),
            ({"extra": 1}, "extra"),
        ],
    )
    def test_names_the_field_that_is_wrong(self, change: dict[str, object], named: str) -> None:
        with pytest.raises(BadRequest) as caught:
            Voucher.from_wire({**WIRE, **change})
        assert caught.value.param == named

    def test_names_a_missing_field(self) -> None:
        with pytest.raises(BadRequest) as caught:
            Voucher.from_wire({name: value for name, value in WIRE.items() if name != "node"})
        assert caught.value.param == "node"

    def test_refuses_a_wrong_checksum(self) -> None:
        swapped = KEY.address[:2] + KEY.address[2:].swapcase()
        with pytest.raises(BadRequest):
            checksum_address(swapped)

    def test_refuses_out_of_range_values_when_built(self) -> None:
        with pytest.raises(BadRequest):
            Voucher(KEY.address, KEY.address, NODE, 1 << 32, 0)


class TestSignatures:
    def test_recovers_what_eth_account_signed(self) -> None:
        digest = keccak(b"digest")
        signed = Account.unsafe_sign_hash(digest, KEY.secret)
        vs = signed.s | ((signed.v - 27) << 255)
        compact = signed.r.to_bytes(32, "big") + vs.to_bytes(32, "big")
        assert KEY.sign(digest) == compact
        assert recover(digest, compact) == KEY.address

    def test_refuses_high_s(self) -> None:
        # 64 bytes leave room for a few high values of s only: those above half the order and below 2^255.
        signature = keccak(b"r") + (ORDER // 2 + 1).to_bytes(32, "big")
        with pytest.raises(InvalidSignature, match="out of range"):
            recover(keccak(b"digest"), signature)

    @pytest.mark.parametrize(
        "signature", [b"", bytes(64), bytes(65), b"\x01" * 31 + bytes(33), bytes(32) + b"\x01" * 32]
    )
    def test_refuses_malformed_ones(self, signature: bytes) -> None:
        with pytest.raises(InvalidSignature):
            recover(keccak(b"digest"), signature)

    def test_names_both_signers(self) -> None:
        digest = keccak(b"digest")
        with pytest.raises(InvalidSignature) as caught:
            check_signed_by(digest, KEY.sign(digest), NODE)
        assert (caught.value.expected, caught.value.actual) == (NODE, KEY.address)

    def test_chain_and_escrow_change_the_digest(self) -> None:
        voucher = Voucher.from_wire(WIRE)
        others = [Domain(1, NODE), Domain(31337, KEY.address), DOMAIN]
        assert len({voucher.digest(domain) for domain in others}) == 3


class TestCanonicalJson:
    @pytest.mark.parametrize(
        "value",
        [
            {"b": 1, "a": [True, None, 'é\u2028\x07\n"\\']},
            {"\U0001f600": 1, "\ufb33": 2, "a": 3},
            {"messages": [{"role": "user", "content": "naïve ☃ \U0001f600"}]},
            {"n": (1 << 53) - 1, "m": -((1 << 53) - 1)},
        ],
    )
    def test_is_that_of_rfc_8785(self, value: dict[str, object]) -> None:
        assert canonical_json(value) == rfc8785.dumps(value)

    @pytest.mark.parametrize(
        "value", [1.5, {"a": 0.0}, [1 << 53], {1: 2}, {"a": "\ud800"}, {"a": {1, 2}}, float("nan")]
    )
    def test_refuses_what_has_no_canonical_form(self, value: object) -> None:
        with pytest.raises(BadRequest):
            canonical_json(value)

    def test_prompt_hashes_are_salted(self) -> None:
        prompt = {"prompt": "hello"}
        assert prompt_hash(bytes(32), prompt) != prompt_hash(b"\x01" * 32, prompt)


class TestParams:
    BODY: ClassVar[dict[str, Any]] = {
        "messages": [],
        "temperature": 0.7,
        "top_p": 0.9,
        "seed": 4,
        "stop": "x",
        "logit_bias": {"12": -1.5, "3": 2},
    }

    def test_turns_fractions_into_integers(self) -> None:
        params = JobParams.from_openai(self.BODY, "chat", 64, "2026-11-21")
        assert (params.temperature, params.top_p, params.stop) == (700_000, 900_000, ("x",))
        assert params.logit_bias == ((3, 2_000_000), (12, -1_500_000))
        assert params.bias == {3: 2_000_000, 12: -1_500_000}

    def test_survives_the_round_trip(self) -> None:
        params = JobParams.from_openai(self.BODY, "chat", 64, "2026-11-21")
        assert JobParams.from_json(params.to_json()) == params
        assert params_hash(params) == params_hash(params.to_json())

    def test_has_every_key_of_r_30(self) -> None:
        keys_of_rule = {
            "temperature",
            "topP",
            "minP",
            "repetitionPenalty",
            "frequencyPenalty",
            "presencePenalty",
            "topK",
        }
        keys_of_rule |= {"minTokens", "maxTokens", "logitBias", "stop", "endpoint", "templateDate", "promptLogprobs"}
        keys_of_rule |= {"responseFormat", "toolChoice"}
        assert JobParams(max_tokens=1, template_date="2026-11-21").to_json().keys() == keys_of_rule

    @pytest.mark.parametrize(
        "change",
        [
            {"temperature": 2.5},
            {"temperature": "1"},
            {"top_p": 0},
            {"tool_choice": "required"},
            {"response_format": {"type": "xml"}},
            {"frobnicate": 1},
            {"max_tokens": 0},
            {"max_tokens": 1.5},
            {"min_tokens": 65},
            {"logit_bias": {"x": 1}},
            {"logit_bias": {"1": 101}},
            {"stop": ["a"] * 17},
            {"stop": [1]},
            {"prompt_logprobs": 65},
        ],
    )
    def test_refuses_what_the_protocol_does_not_define(self, change: dict[str, object]) -> None:
        with pytest.raises(UnsupportedParameter) as caught:
            JobParams.from_openai({**self.BODY, **change}, "chat", 64, "2026-11-21")
        assert caught.value.status == 400

    @pytest.mark.parametrize(
        "change", [{"tools": []}, {"response_format": {"type": "text"}}, {"user": "me"}, {"top_k": -1}]
    )
    def test_accepts_what_changes_nothing(self, change: dict[str, object]) -> None:
        plain = JobParams.from_openai(self.BODY, "chat", 64, "2026-11-21")
        assert JobParams.from_openai({**self.BODY, **change}, "chat", 64, "2026-11-21") == plain

    def test_takes_the_prompt_in_every_form(self) -> None:
        parts = [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]
        chat = prompt_of_body({"messages": [{"role": "user", "content": parts, "name": None}]}, "chat")
        assert chat == {"messages": [{"role": "user", "content": "ab"}]}
        assert prompt_of_body({"prompt": ["hi"]}, "text") == {"prompt": "hi"}
        assert prompt_of_body({"prompt": [1, 2]}, "text") == {"promptIds": [1, 2]}

    @pytest.mark.parametrize(
        "body", [{"messages": []}, {"messages": [{"role": "tool", "content": "x"}]}, {"messages": "x"}]
    )
    def test_refuses_other_messages(self, body: dict[str, object]) -> None:
        with pytest.raises(BadRequest):
            prompt_of_body(body, "chat")

    def test_bounds_the_choices(self) -> None:
        assert choices_of_body({}) == 1
        with pytest.raises(UnsupportedParameter):
            choices_of_body({"n": 0})

    def test_seeds_are_in_twos_complement(self) -> None:
        assert client_seed_from_int(-1) == Bytes32(b"\xff" * 32)
        with pytest.raises(BadRequest):
            client_seed_from_int(1 << 255)


class TestErrors:
    def test_every_error_has_a_status_and_is_exported(self) -> None:
        assert errors.__all__ == sorted(errors.__all__, key=lambda name: (not name.isupper(), name[0].islower(), name))
        assert VoucherTooLow(5, 3).status == 402

    def test_envelope_carries_what_to_do_next(self) -> None:
        body = openai_envelope(VoucherTooLow(5, 3))["error"]
        assert body["code"] == "voucher_too_low"
        assert body["details"] == {"required": "5"}
        assert body["hint"]
        again = errors.error_of_envelope(402, {"error": body})
        assert (again.status, again.code, again.details) == (402, "voucher_too_low", {"required": "5"})

    def test_unreadable_bodies_become_errors_too(self) -> None:
        assert errors.error_of_envelope(502, "<html>").status == 502


def test_addresses_are_spelled_once() -> None:
    assert checksum_address(KEY.address.lower()) == KEY.address == Address(KEY.address)
