"""Plain words of the ABI: the same bytes, values and refusals as eth_abi's."""

from __future__ import annotations

from typing import Any

import pytest
from eth_abi.abi import encode
from eth_abi.exceptions import DecodingError
from hypothesis import given
from hypothesis import strategies as st

from retally.chain.abi import CONTRACTS, Entry, _lenient_codec, load_abi
from retally.chain.words import Malformed, decode_words, encode_words, is_plain

VALUES: dict[str, Any] = {
    "uint8": st.integers(0, 2**8 - 1),
    "uint40": st.integers(0, 2**40 - 1),
    "uint96": st.integers(0, 2**96 - 1),
    "uint256": st.integers(0, 2**256 - 1),
    "bool": st.booleans(),
    "address": st.binary(min_size=20, max_size=20).map(lambda raw: "0x" + raw.hex()),
    "bytes4": st.binary(min_size=4, max_size=4),
    "bytes32": st.binary(min_size=32, max_size=32),
    "string": st.text("aé€😀\0", max_size=80),
    "bytes": st.binary(max_size=80),
}


@st.composite
def arguments(draw: st.DrawFn) -> tuple[list[str], list[Any]]:
    types = draw(st.lists(st.sampled_from(sorted(VALUES)), min_size=1, max_size=6))
    return types, [draw(VALUES[kind]) for kind in types]


class TestWords:
    @given(arguments())
    def test_are_those_of_eth_abi_there_and_back(self, given_: tuple[list[str], list[Any]]) -> None:
        types, values = given_
        data = encode_words(types, values)
        assert data == encode(types, values)
        assert list(decode_words(types, data)) == values

    @given(arguments(), st.data())
    def test_spoilt_data_is_read_as_eth_abi_reads_it_or_refused_with_it(
        self, given_: tuple[list[str], list[Any]], data: st.DataObject
    ) -> None:
        types, values = given_
        raw = bytearray(encode(types, values))
        raw[data.draw(st.integers(0, len(raw) - 1))] ^= data.draw(st.integers(1, 255))
        spoilt = bytes(raw[: data.draw(st.integers(0, len(raw)))])
        try:
            expected: Any = _lenient_codec().decode(types, spoilt)
        except (DecodingError, OverflowError):
            expected = None
        try:
            found: Any = decode_words(types, spoilt)
        except Malformed:
            found = None
        assert found == expected

    @pytest.mark.parametrize("beside", [{"type": "uint8"}, {"type": "uint8[]"}])
    def test_text_that_is_no_utf_8_hides_nothing_beside_it(self, beside: dict[str, str]) -> None:
        """Anybody may write it: whoever reads a block of many events must get past it."""
        inputs = [{"name": "uri", "type": "string"}, {"name": "other", **beside}]
        entry = Entry.from_json({"name": "Opened", "inputs": inputs, "outputs": inputs})
        other: Any = 7 if beside["type"] == "uint8" else (7, 8)
        # `bytes` are laid out as a string is.
        data = encode(["bytes", beside["type"]], [b"http://evil/\xff\xfe", other])
        text = "http://evil/\ufffd\ufffd"
        assert entry.decode_log([entry.topic], data) == {"uri": text, "other": other}
        assert entry.decode_result(data) == (text, other)

    @pytest.mark.parametrize(
        ("kind", "value"),
        [("uint8", 256), ("uint96", -1), ("uint8", True), ("bool", 1), ("bytes4", bytes(5)), ("uint40", "1")],
    )
    def test_a_value_of_another_type_is_refused(self, kind: str, value: Any) -> None:
        with pytest.raises(Malformed):
            encode_words([kind], [value])

    def test_only_plain_types_are_theirs(self) -> None:
        assert is_plain(["uint96", "address", "string", "bytes32", "bool"])
        for kind in ("uint7", "uint264", "bytes33", "int8", "uint8[]", "(uint8,bool)", "function"):
            assert not is_plain([kind])

    def test_what_the_router_reads_is_plain(self) -> None:
        read = {"Escrow": ("account", "signer", "freeExposure"), "Staking": ("stakeOf",), "Registry": ("node",)}
        for name, functions in read.items():
            for function in functions:
                entry = load_abi(name).functions[function]
                assert is_plain([each.type for each in (*entry.inputs, *entry.outputs)])
        for event in load_abi("Registry").events.values():
            assert is_plain([each.type for each in event.inputs])
        assert set(read) <= set(CONTRACTS)
