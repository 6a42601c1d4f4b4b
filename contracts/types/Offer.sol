// SPDX-License-Identifier: Apache-2.0
pragma solidity >=0.8.34 <0.9.0;

bytes32 constant OFFER_TYPEHASH = keccak256(
    "Offer(address node,bytes32 modelId,bytes32 profileId,uint64 priceIn,uint64 priceCached,"
    "uint64 priceOut,uint32 maxContext,uint40 validUntil)"
);

/// @notice Node-signed prices per million tokens of one model and profile, valid until a time.
struct Offer {
    address node;
    bytes32 modelId;
    bytes32 profileId;
    uint64 priceIn;
    uint64 priceCached;
    uint64 priceOut;
    uint32 maxContext;
    uint40 validUntil;
}

using {hash} for Offer global;

/// @notice EIP-712 struct hash. Every field is one static word, so the ABI encoding is the typed encoding.
function hash(Offer memory self) pure returns (bytes32) {
    return keccak256(abi.encode(OFFER_TYPEHASH, self));
}
