// SPDX-License-Identifier: Apache-2.0
pragma solidity >=0.8.34 <0.9.0;

bytes32 constant JOB_RECEIPT_TYPEHASH = keccak256(
    "JobReceipt(bytes32 jobId,uint16 choice,address payer,address signer,address node,uint32 lane,"
    "uint96 cumFrom,uint96 cumTo,bytes32 modelId,bytes32 profileId,bytes32 offerHash,bytes32 promptRoot,"
    "uint32 promptTokens,uint32 cachedTokens,bytes32 prefixRoot,uint32 outputFrom,uint32 outputTo,"
    "bytes32 outputRoot,bytes32 paramsHash,bytes32 seed,uint8 finishReason,uint40 startedAt,"
    "uint40 finishedAt)"
);

/// @notice A node's final statement of one segment. `cumTo - cumFrom` is its fee on the channel's money line.
struct JobReceipt {
    bytes32 jobId;
    uint16 choice;
    address payer;
    address signer;
    address node;
    uint32 lane;
    uint96 cumFrom;
    uint96 cumTo;
    bytes32 modelId;
    bytes32 profileId;
    bytes32 offerHash;
    bytes32 promptRoot;
    uint32 promptTokens;
    uint32 cachedTokens;
    bytes32 prefixRoot;
    uint32 outputFrom;
    uint32 outputTo;
    bytes32 outputRoot;
    bytes32 paramsHash;
    bytes32 seed;
    uint8 finishReason;
    uint40 startedAt;
    uint40 finishedAt;
}

using {hash, digestIn} for JobReceipt global;

/// @notice EIP-712 struct hash. Every field is one static word, so the ABI encoding is the typed encoding.
function hash(JobReceipt memory self) pure returns (bytes32) {
    return keccak256(abi.encode(JOB_RECEIPT_TYPEHASH, self));
}

/// @notice EIP-712 digest of a receipt in calldata, hashed from where it lies: `0x1901 ‖ domain ‖ struct hash`.
/// @dev A word with bits beyond its type gives a digest that no honest signer ever signed.
function digestIn(JobReceipt calldata self, bytes32 domain) pure returns (bytes32 digest) {
    bytes32 typeHash = JOB_RECEIPT_TYPEHASH;
    assembly ("memory-safe") {
        let free := mload(0x40)
        mstore(free, typeHash)
        calldatacopy(add(free, 0x20), self, 0x2e0)
        let structHash := keccak256(free, 0x300)
        mstore(free, shl(240, 0x1901))
        mstore(add(free, 2), domain)
        mstore(add(free, 34), structHash)
        digest := keccak256(free, 66)
    }
}
