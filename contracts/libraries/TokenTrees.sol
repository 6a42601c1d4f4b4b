// SPDX-License-Identifier: Apache-2.0
pragma solidity >=0.8.34 <0.9.0;

import {Merkle} from "./Merkle.sol";

/// @notice Builds the root of a token tree from parts that arrive in separate calls (R-13, R-16, R-17).
/// @dev Keeps the tops of the complete subtrees to the left, one for each bit of the number of leaves so far. Promoting
/// odd nodes, as R-13 does, gives the same root as folding these tops from the right.
library TokenTrees {
    /// @dev Tokens in a leaf.
    uint256 internal constant CHUNK = 32;
    /// @dev Bytes of a token id, and of an id with its quantised logprob.
    uint256 internal constant ID_SIZE = 4;
    uint256 internal constant OUTPUT_SIZE = 6;

    struct Tree {
        mapping(uint256 level => bytes32) tops;
    }

    /// @notice Appends the leaves in `data`, whose first token is number `done` of the tree. All parts but the last are
    /// whole leaves; the data of a leaf follow one another without positions.
    /// @param first Absolute position of the tree's first token.
    /// @param size Bytes of a token.
    function append(Tree storage tree, bytes calldata data, uint256 first, uint256 done, uint256 size) internal {
        uint256 leafSize = CHUNK * size;
        uint256 leaves = done / CHUNK;
        for (uint256 from; from < data.length; from += leafSize) {
            uint256 end = from + leafSize < data.length ? from + leafSize : data.length;
            bytes32 node = Merkle.leaf(abi.encodePacked(uint32(first + leaves * CHUNK), data[from:end]));
            uint256 level;
            while ((leaves >> level) & 1 == 1) {
                node = Merkle.inner(tree.tops[level], node);
                ++level;
            }
            tree.tops[level] = node;
            ++leaves;
        }
    }

    /// @notice Root of a tree of `count` tokens that have all been appended.
    function root(Tree storage tree, uint256 count) internal view returns (bytes32) {
        uint256 leaves = (count + CHUNK - 1) / CHUNK;
        bytes32 node;
        bool started;
        for (uint256 level; leaves >> level > 0; ++level) {
            if ((leaves >> level) & 1 == 0) continue;
            node = started ? Merkle.inner(tree.tops[level], node) : tree.tops[level];
            started = true;
        }
        return Merkle.seal(count, node);
    }
}
