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

/// @notice A voucher as EIP-712 encodes it: what is hashed for each item of a batch is filled in once per run.
struct EncodedVoucher {
    bytes32 typeHash;
    address payer;
    address signer;
    address node;
    uint32 lane;
    uint96 cumulative;
}

using {hash, encoded} for Voucher global;
using {structHash, channelKeyOf} for EncodedVoucher global;

/// @notice EIP-712 struct hash. Every field is one static word, so the ABI encoding is the typed encoding.
function hash(Voucher memory self) pure returns (bytes32) {
    return keccak256(abi.encode(VOUCHER_TYPEHASH, self));
}

/// @notice The voucher with its type hash before it.
function encoded(Voucher memory self) pure returns (EncodedVoucher memory) {
    return EncodedVoucher(VOUCHER_TYPEHASH, self.payer, self.signer, self.node, self.lane, self.cumulative);
}

/// @notice EIP-712 struct hash: a struct of static words lies in memory as it is encoded.
function structHash(EncodedVoucher memory self) pure returns (bytes32 result) {
    assembly ("memory-safe") {
        result := keccak256(self, 0xc0)
    }
}

/// @notice Key of the voucher's channel: `channelKey` of its parties, hashed in scratch space.
function channelKeyOf(EncodedVoucher memory self) pure returns (bytes32 key) {
    assembly ("memory-safe") {
        let signer := mload(add(self, 0x40))
        mstore(0x00, or(shl(96, mload(add(self, 0x20))), shr(64, signer)))
        mstore(0x20, or(shl(192, signer), or(shl(32, mload(add(self, 0x60))), mload(add(self, 0x80)))))
        key := keccak256(0x00, 0x40)
    }
}
