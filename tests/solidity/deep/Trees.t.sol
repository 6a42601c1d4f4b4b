// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

import {Lots} from "../../../contracts/libraries/Lots.sol";
import {Merkle} from "../../../contracts/libraries/Merkle.sol";
import {SumTree} from "../../../contracts/libraries/SumTree.sol";
import {bound} from "./Vm.sol";

/// @notice Trees and lots against the plainest way to say the same.
contract TreesTest {
    using Lots for Lots.Line;
    using SumTree for SumTree.Tree;

    uint256 private constant LEAVES = 12;

    SumTree.Tree private _tree;

    /// @dev Every leaf proves itself at its place, and nothing else proves there.
    function testFuzz_merkleProvesEachLeafAtItsPlaceOnly(uint256 seed, uint256 width, uint256 index, uint256 other) public pure {
        width = bound(width, 1, 9);
        index = bound(index, 0, width - 1);
        bytes32[] memory leaves = _leaves(seed, width);
        bytes32 leaf = leaves[index];
        bytes32[] memory proof = _proof(leaves, index);
        bytes32 root = Merkle.root(_leaves(seed, width), width);
        assert(Merkle.verify(root, leaf, index, width, width, proof));
        assert(!Merkle.verify(root, keccak256(abi.encode(leaf)), index, width, width, proof));
        assert(!Merkle.verify(root, leaf, index, width, width + 1, proof));
        assert(!Merkle.verify(root, leaf, index, width, width + (1 << 32), proof));
        assert(!Merkle.verify(root, leaf, width + other % 1000, width, width, proof));
        if (proof.length != 0) {
            proof[other % proof.length] ^= bytes32(uint256(1));
            assert(!Merkle.verify(root, leaf, index, width, width, proof));
            proof[other % proof.length] ^= bytes32(uint256(1));
            uint256 wrong = (index + 1 + other % (width - 1)) % width;
            // Another place whose way up has the same sides may not be told apart by a width alone, but by the leaf.
            assert(wrong == index || !Merkle.verify(root, leaves[0] ^ leaf ^ bytes32(uint256(1)), wrong, width, width, proof));
        }
        bytes32[] memory longer = new bytes32[](proof.length + 1);
        for (uint256 i; i < proof.length; ++i) {
            longer[i] = proof[i];
        }
        assert(!Merkle.verify(root, leaf, index, width, width, longer));
    }

    /// @dev A leaf of one place proves at no other place of the same tree.
    function testFuzz_merkleLeavesKeepTheirPlace(uint256 seed, uint256 width, uint256 index, uint256 place) public pure {
        width = bound(width, 2, 9);
        index = bound(index, 0, width - 1);
        place = bound(place, 0, width - 1);
        bytes32[] memory leaves = _leaves(seed, width);
        bytes32 leaf = leaves[index];
        bytes32[] memory proof = _proof(leaves, index);
        bytes32 root = Merkle.root(_leaves(seed, width), width);
        assert(Merkle.verify(root, leaf, place, width, width, proof) == (place == index));
    }

    /// @dev The leaf that a point falls on is the one a walk along the row finds, after any changes.
    function testFuzz_sumTreeFindsWhatAWalkFinds(uint64[12] memory weights, uint64[4] memory changes, uint256 point) public {
        uint256 count = bound(point >> 128, 1, LEAVES);
        uint256[] memory row = new uint256[](count);
        for (uint256 i; i < count; ++i) {
            row[i] = weights[i] % 5 == 0 ? 0 : weights[i];
            assert(_tree.push(uint128(row[i])) == i + 1);
        }
        for (uint256 i; i < 4; ++i) {
            uint256 leaf = changes[i] % count;
            _tree.update(uint32(leaf + 1), uint128(row[leaf]), changes[i] >> 8);
            row[leaf] = changes[i] >> 8;
        }
        uint256 total;
        for (uint256 i; i < count; ++i) {
            total += row[i];
        }
        assert(_tree.total == total);
        if (total == 0) return;
        point = bound(point & type(uint128).max, 0, total - 1);
        (uint32 found, uint256 offset) = _tree.find(point);
        uint256 at;
        while (point >= row[at]) point -= row[at++];
        assert(found == at + 1 && offset == point);
    }

    /// @dev Lots never fall into what was taken out, and all that is left can be hit.
    function testFuzz_lotsFallIntoWhatIsLeft(bytes32 seed, uint16 length, uint256 size) public pure {
        uint256 all = bound(length, 24, 2_000);
        uint256 part = bound(size, 1, all / 12);
        Lots.Line memory row = Lots.line(all, 8);
        bool[] memory taken = new bool[](all / part + 1);
        for (uint256 turn; turn < 8; ++turn) {
            (uint256 point, uint256 place) = row.draw(seed, turn);
            assert(point < all && !taken[point / part]);
            uint256 start = point / part * part;
            uint256 end = start + part < all ? start + part : all;
            row.remove(place, start, end);
            taken[start / part] = true;
            uint256 left = all;
            for (uint256 i; i <= turn; ++i) {
                left -= uint128(row.taken[i]) - (row.taken[i] >> 128);
                assert(i == 0 || row.taken[i] >> 128 >= uint128(row.taken[i - 1]));
            }
            assert(row.left == left);
        }
    }

    function _leaves(uint256 seed, uint256 width) private pure returns (bytes32[] memory leaves) {
        leaves = new bytes32[](width);
        for (uint256 i; i < width; ++i) {
            leaves[i] = Merkle.leaf(abi.encode(seed, i));
        }
    }

    /// @dev Siblings on the way up; a last node without one is promoted. Consumes `nodes`.
    function _proof(bytes32[] memory nodes, uint256 index) private pure returns (bytes32[] memory proof) {
        bytes32[] memory found = new bytes32[](8);
        uint256 length;
        for (uint256 width = nodes.length; width > 1; width = (width + 1) / 2) {
            if (index ^ 1 < width) found[length++] = nodes[index ^ 1];
            for (uint256 i; i < width; i += 2) {
                nodes[i / 2] = i + 1 < width ? Merkle.inner(nodes[i], nodes[i + 1]) : nodes[i];
            }
            index /= 2;
        }
        proof = new bytes32[](length);
        for (uint256 i; i < length; ++i) {
            proof[i] = found[i];
        }
    }
}
