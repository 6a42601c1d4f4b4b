// SPDX-License-Identifier: Apache-2.0
pragma solidity >=0.8.34 <0.9.0;

/// @notice Domain-separated Merkle trees with the count inside the root (R-13 to R-17).
library Merkle {
    /// @dev Items in one leaf of the token-id and output trees.
    uint256 internal constant CHUNK = 32;

    /// @notice Leaf hash of `data`.
    function leaf(bytes memory data) internal pure returns (bytes32) {
        return keccak256(abi.encodePacked(bytes1(0x00), data));
    }

    /// @notice Hash of an inner node.
    function inner(bytes32 left, bytes32 right) internal pure returns (bytes32) {
        return keccak256(abi.encodePacked(bytes1(0x01), left, right));
    }

    /// @notice Root of a tree with `top` as its last node. `count` is what the tree counts, not always its leaves.
    function seal(uint256 count, bytes32 top) internal pure returns (bytes32) {
        return keccak256(abi.encodePacked(bytes1(0x02), uint32(count), top));
    }

    /// @notice Root over leaf hashes. Warning: overwrites `nodes`.
    function root(bytes32[] memory nodes, uint256 count) internal pure returns (bytes32) {
        uint256 width = nodes.length;
        if (width == 0) return seal(0, bytes32(0));
        while (width > 1) {
            for (uint256 i; i < width / 2; ++i) {
                nodes[i] = inner(nodes[2 * i], nodes[2 * i + 1]);
            }
            if (width % 2 == 1) nodes[width / 2] = nodes[width - 1];
            width = (width + 1) / 2;
        }
        return seal(count, nodes[0]);
    }

    /// @notice Root of a token-id tree (R-16).
    function idsRoot(uint32[] memory ids) internal pure returns (bytes32) {
        bytes32[] memory leaves = new bytes32[]((ids.length + CHUNK - 1) / CHUNK);
        for (uint256 i; i < leaves.length; ++i) {
            uint256 end = (i + 1) * CHUNK < ids.length ? (i + 1) * CHUNK : ids.length;
            bytes memory data = abi.encodePacked(uint32(i * CHUNK));
            for (uint256 j = i * CHUNK; j < end; ++j) {
                data = bytes.concat(data, bytes4(ids[j]));
            }
            leaves[i] = leaf(data);
        }
        return root(leaves, ids.length);
    }

    /// @notice Root of an output tree of the segment that starts at `first` (R-17).
    function outputRoot(uint32 first, uint32[] memory ids, uint16[] memory quantised) internal pure returns (bytes32) {
        bytes32[] memory leaves = new bytes32[]((ids.length + CHUNK - 1) / CHUNK);
        for (uint256 i; i < leaves.length; ++i) {
            uint256 end = (i + 1) * CHUNK < ids.length ? (i + 1) * CHUNK : ids.length;
            bytes memory head = abi.encodePacked(first + uint32(i * CHUNK));
            bytes memory tail;
            for (uint256 j = i * CHUNK; j < end; ++j) {
                head = bytes.concat(head, bytes4(ids[j]));
                tail = bytes.concat(tail, bytes2(quantised[j]));
            }
            leaves[i] = leaf(bytes.concat(head, tail));
        }
        return root(leaves, ids.length);
    }

    /// @notice Whether `node` is leaf `index` of the `leafCount` leaves under `sealedRoot`, whose inner count is `count`.
    function verify(
        bytes32 sealedRoot,
        bytes32 node,
        uint256 index,
        uint256 leafCount,
        uint256 count,
        bytes32[] memory proof
    ) internal pure returns (bool) {
        if (index >= leafCount || count > type(uint32).max) return false;
        uint256 used;
        for (uint256 width = leafCount; width > 1; width = (width + 1) / 2) {
            bool promoted = index == width - 1 && width % 2 == 1;
            if (!promoted) {
                if (used == proof.length) return false;
                bytes32 sibling = proof[used++];
                node = index % 2 == 0 ? inner(node, sibling) : inner(sibling, node);
            }
            index /= 2;
        }
        return used == proof.length && seal(count, node) == sealedRoot;
    }
}
