// SPDX-License-Identifier: Apache-2.0
pragma solidity >=0.8.34 <0.9.0;

bytes32 constant VERDICT_TYPEHASH = keccak256(
    "Verdict(uint64 commitId,uint16 round,bytes32 receiptDigest,address verifier,uint8 verdict,"
    "int64 logE)"
);

/// @notice A verifier's signed finding for one receipt of a commit.
struct Verdict {
    uint64 commitId;
    uint16 round;
    bytes32 receiptDigest;
    address verifier;
    uint8 verdict;
    int64 logE;
}

using {hash} for Verdict global;

/// @notice EIP-712 struct hash. Every field is one static word, so the ABI encoding is the typed encoding.
function hash(Verdict memory self) pure returns (bytes32) {
    return keccak256(abi.encode(VERDICT_TYPEHASH, self));
}
