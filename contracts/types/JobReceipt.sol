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

using {hash} for JobReceipt global;

/// @notice EIP-712 struct hash. Every field is one static word, so the ABI encoding is the typed encoding.
function hash(JobReceipt memory self) pure returns (bytes32) {
    return keccak256(abi.encode(JOB_RECEIPT_TYPEHASH, self));
}
