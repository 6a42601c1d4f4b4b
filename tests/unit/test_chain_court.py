"""What the Court's wrapper makes of the chain's bytes."""

from __future__ import annotations

from eth_abi.abi import encode

from retally.chain.court import decode_shown
from retally.protocol.case import Shown
from retally.protocol.encoding import Bytes32, checksum_address


class TestDecodeShown:
    def test_gives_back_what_was_opened_with_checksummed_payers(self) -> None:
        payer = checksum_address("0x" + "ab" * 20)
        shown = Shown(7, Bytes32(b"\x01" * 32), payer, 640)

        data = encode(["(uint64,bytes32,address,uint96)[]"], [[shown.to_abi()]])

        assert decode_shown(data) == (shown,)
