"""Silence: answers demanded on chain."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum
from struct import pack

from eth_abi.abi import encode

from retally.chain.contract import Contract, ContractCall
from retally.protocol.case import CommitRecord
from retally.protocol.encoding import Address, Bytes32, keccak
from retally.protocol.job import JobRequest, canonical_json
from retally.protocol.merkle import CHUNK
from retally.protocol.offer import Offer
from retally.protocol.receipt import JobReceipt
from retally.protocol.wire import AnswerBundle


class ChallengeStatus(IntEnum):
    """Where a challenge stands."""

    NONE = 0
    OPEN = 1
    ANSWERED = 2
    SLASHED = 3


@dataclass(frozen=True, slots=True)
class Challenge:
    """An on-chain demand for an answer."""

    challenger: Address
    deadline: int
    status: int
    by_payer: bool
    tree: int
    done: int
    node: Address
    point: int
    owner: Address
    bytes_posted: int
    commit_id: int
    channel: Bytes32
    receipts_root: Bytes32


def challenge_id(commit_id: int, channel: bytes, k: int) -> Bytes32:
    """The id of a challenge."""
    return keccak(encode(["uint64", "bytes32", "uint256"], [commit_id, channel, k]))


class Silence(Contract):
    """Views and calls of Silence."""

    NAME = "Silence"

    async def challenge_of(self, challenge: bytes) -> Challenge:
        """A challenge."""
        return Challenge(*await self.view("challengeOf", challenge))

    async def challenge_bond(self) -> int:
        """What a challenge pulls from the challenger."""
        return int((await self.view("silenceParameters"))[0])

    async def credit(self, account: Address) -> int:
        """What an account can withdraw."""
        return int(await self.view("credit", account))

    def challenge(self, commit: CommitRecord, ranges: bytes, range_index: int, k: int) -> ContractCall:
        """Demands the answer of a drawn point, with a bond."""
        return self.call("challenge", commit.to_abi(), ranges, range_index, k)

    def answer(self, challenge: bytes, data: bytes) -> ContractCall:
        """Posts one part of an answer."""
        return self.call("answer", challenge, data)

    def timeout(self, challenge: bytes) -> ContractCall:
        """Slashes a node that did not answer in time."""
        return self.call("timeout", challenge)

    def withdraw_credit(self) -> ContractCall:
        """Pays the sender its credit."""
        return self.call("withdrawCredit")


def encode_answer_head(bundle: AnswerBundle) -> bytes:
    """The first part of an on-chain answer: abi.encode(AnswerHead)."""
    receipt, request, offer = _tuple(JobReceipt.TYPE), _tuple(JobRequest.TYPE), _tuple(Offer.TYPE)
    head = f"({receipt},bytes,uint32,uint32,bytes32[],{request},bytes,bytes,bytes,{offer})"
    values = (
        bundle.receipt.to_abi(),
        bundle.signature,
        bundle.index,
        bundle.leaf_count,
        list(bundle.proof),
        bundle.request.to_abi(),
        bundle.request_signature,
        canonical_json(dict(bundle.prompt)),
        canonical_json(bundle.params.to_json()),
        bundle.offer.to_abi(),
    )
    return encode([head], [values])


def encode_ids(ids: Sequence[int]) -> bytes:
    """Prompt or prefix ids as a later part of an on-chain answer."""
    return pack(f">{len(ids)}I", *ids)


def encode_output(ids: Sequence[int], quantised: Sequence[int]) -> bytes:
    """Output ids and logprobs as a later part of an on-chain answer: chunk by chunk, ids then q."""
    parts = []
    for i in range(0, len(ids), CHUNK):
        some, qs = ids[i : i + CHUNK], quantised[i : i + CHUNK]
        parts.append(pack(f">{len(some)}I{len(qs)}H", *some, *qs))
    return b"".join(parts)


def _tuple(type_string: str) -> str:
    inner = type_string[type_string.index("(") + 1 : -1]
    return "(" + ",".join(part.split(" ")[0] for part in inner.split(",")) + ")"
