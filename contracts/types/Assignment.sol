// SPDX-License-Identifier: Apache-2.0
pragma solidity >=0.8.34 <0.9.0;

bytes32 constant ASSIGNMENT_TYPEHASH = keccak256(
    "Assignment(bytes32 jobId,address router,uint32 replica,uint64 boot,uint64 counter,address node,"
    "bytes32 offerHash,uint16 choice,uint16 segment,uint32 outputFrom,bytes32 prefixRoot,"
    "uint96 remainingFee)"
);

/// @notice A router's signed decision that a node serves one segment of one choice.
struct Assignment {
    bytes32 jobId;
    address router;
    uint32 replica;
    uint64 boot;
    uint64 counter;
    address node;
    bytes32 offerHash;
    uint16 choice;
    uint16 segment;
    uint32 outputFrom;
    bytes32 prefixRoot;
    uint96 remainingFee;
}

using {hash} for Assignment global;

/// @notice EIP-712 struct hash. Every field is one static word, so the ABI encoding is the typed encoding.
function hash(Assignment memory self) pure returns (bytes32) {
    return keccak256(abi.encode(ASSIGNMENT_TYPEHASH, self));
}
