// SPDX-License-Identifier: Apache-2.0
pragma solidity >=0.8.34 <0.9.0;

/// @notice What one `collect` fixed: the receipts root, the money ranges it tiles, and how densely they are audited.
/// @dev The Escrow stores only its hash; whoever acts on a commit shows the whole struct again.
struct Commit {
    uint64 id;
    address node;
    address owner;
    bytes32 receiptsRoot;
    bytes32 rangesHash;
    uint96 step;
    uint32 sharePpm;
    uint64 seedBlock;
    uint40 time;
}

using {hash} for Commit global;

/// @notice The word the Escrow stores for a commit: keccak of its ABI encoding.
/// @dev A struct of static words lies in memory as it is encoded: nothing is copied.
function hash(Commit memory self) pure returns (bytes32 word) {
    assembly ("memory-safe") {
        word := keccak256(self, 0x120)
    }
}
