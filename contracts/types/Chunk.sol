// SPDX-License-Identifier: Apache-2.0
pragma solidity >=0.8.34 <0.9.0;

bytes32 constant CHUNK_TYPEHASH = keccak256(
    "Chunk(bytes32 jobId,uint16 choice,uint16 segment,address node,uint32 outputFrom,uint32 outputTo,"
    "bytes32 outputRoot,uint96 due)"
);

/// @notice A node's running statement of an open segment; each voucher answers one.
struct Chunk {
    bytes32 jobId;
    uint16 choice;
    uint16 segment;
    address node;
    uint32 outputFrom;
    uint32 outputTo;
    bytes32 outputRoot;
    uint96 due;
}

using {hash} for Chunk global;

/// @notice EIP-712 struct hash. Every field is one static word, so the ABI encoding is the typed encoding.
function hash(Chunk memory self) pure returns (bytes32) {
    return keccak256(abi.encode(CHUNK_TYPEHASH, self));
}
