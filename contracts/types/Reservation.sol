// SPDX-License-Identifier: Apache-2.0
pragma solidity >=0.8.34 <0.9.0;

bytes32 constant RESERVATION_TYPEHASH = keccak256(
    "Reservation(address payer,address signer,address node,uint96 cumulative,uint32 epoch)"
);

/// @notice Sets payer's funds aside for one node; `signer` zero serves every signer of the payer. Cumulative per epoch.
struct Reservation {
    address payer;
    address signer;
    address node;
    uint96 cumulative;
    uint32 epoch;
}

using {hash} for Reservation global;

/// @notice EIP-712 struct hash. Every field is one static word, so the ABI encoding is the typed encoding.
function hash(Reservation memory self) pure returns (bytes32) {
    return keccak256(abi.encode(RESERVATION_TYPEHASH, self));
}
