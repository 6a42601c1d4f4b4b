// SPDX-License-Identifier: Apache-2.0
pragma solidity >=0.8.34 <0.9.0;

bytes32 constant JOB_REQUEST_TYPEHASH = keccak256(
    "JobRequest(address payer,address signer,bytes32 modelId,bytes32 profileId,uint16 n,"
    "uint64 maxPriceIn,uint64 maxPriceCached,uint64 maxPriceOut,bytes32 promptHash,bytes32 paramsHash,"
    "uint32 maxOutput,uint96 maxFee,bytes32 clientSeed,bool auditConsent,bytes32 nonce,uint40 deadline)"
);

/// @notice What the payer asks for; its digest is the jobId. It names no node, since a router chooses one.
struct JobRequest {
    address payer;
    address signer;
    bytes32 modelId;
    bytes32 profileId;
    uint16 n;
    uint64 maxPriceIn;
    uint64 maxPriceCached;
    uint64 maxPriceOut;
    bytes32 promptHash;
    bytes32 paramsHash;
    uint32 maxOutput;
    uint96 maxFee;
    bytes32 clientSeed;
    bool auditConsent;
    bytes32 nonce;
    uint40 deadline;
}

using {hash} for JobRequest global;

/// @notice EIP-712 struct hash. Every field is one static word, so the ABI encoding is the typed encoding.
function hash(JobRequest memory self) pure returns (bytes32) {
    return keccak256(abi.encode(JOB_REQUEST_TYPEHASH, self));
}
