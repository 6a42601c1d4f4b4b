// SPDX-License-Identifier: Apache-2.0
pragma solidity >=0.8.34 <0.9.0;

bytes32 constant NODE_AUTH_TYPEHASH = keccak256(
    "NodeAuth(address owner,address node,uint40 deadline)"
);

/// @notice Proof by a node's hot key that it belongs to an owner.
struct NodeAuth {
    address owner;
    address node;
    uint40 deadline;
}

using {hash} for NodeAuth global;

/// @notice EIP-712 struct hash. Every field is one static word, so the ABI encoding is the typed encoding.
function hash(NodeAuth memory self) pure returns (bytes32) {
    return keccak256(abi.encode(NODE_AUTH_TYPEHASH, self));
}
