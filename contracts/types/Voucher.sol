// SPDX-License-Identifier: Apache-2.0
pragma solidity >=0.8.34 <0.9.0;

bytes32 constant VOUCHER_TYPEHASH = keccak256(
    "Voucher(address payer,address signer,address node,uint32 lane,uint96 cumulative)"
);

/// @notice The only message signed for money: cumulative, so a replayed or lost one is harmless.
struct Voucher {
    address payer;
    address signer;
    address node;
    uint32 lane;
    uint96 cumulative;
}

using {hash} for Voucher global;

/// @notice EIP-712 struct hash. Every field is one static word, so the ABI encoding is the typed encoding.
function hash(Voucher memory self) pure returns (bytes32) {
    return keccak256(abi.encode(VOUCHER_TYPEHASH, self));
}
