// SPDX-License-Identifier: Apache-2.0
pragma solidity >=0.8.34 <0.9.0;

bytes32 constant ANSWER_REQUEST_TYPEHASH = keccak256(
    "AnswerRequest(uint64 commitId,bytes32 channel,uint96 point,address verifier,uint40 deadline)"
);

/// @notice A verifier's signed demand for the answer at one audit point.
struct AnswerRequest {
    uint64 commitId;
    bytes32 channel;
    uint96 point;
    address verifier;
    uint40 deadline;
}

using {hash} for AnswerRequest global;

/// @notice EIP-712 struct hash. Every field is one static word, so the ABI encoding is the typed encoding.
function hash(AnswerRequest memory self) pure returns (bytes32) {
    return keccak256(abi.encode(ANSWER_REQUEST_TYPEHASH, self));
}
