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
/// @dev `collect` hashes one per item: it is encoded where free memory begins, which stays free.
function hash(Voucher memory self) pure returns (bytes32 structHash) {
    bytes32 typeHash = VOUCHER_TYPEHASH;
    assembly ("memory-safe") {
        let at := mload(0x40)
        mstore(at, typeHash)
        mcopy(add(at, 0x20), self, 0xa0)
        structHash := keccak256(at, 0xc0)
    }
}
