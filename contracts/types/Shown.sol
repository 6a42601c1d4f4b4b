// SPDX-License-Identifier: Apache-2.0
pragma solidity >=0.8.34 <0.9.0;

/// @notice A receipt that a case shows: one with a drawn audit point of a commit.
struct Shown {
    uint64 commitId;
    bytes32 receiptDigest;
    address payer;
    uint96 fee;
}
