// SPDX-License-Identifier: Apache-2.0
pragma solidity >=0.8.34 <0.9.0;

/// @notice Weights in a row, with their sums kept so that the one that holds a point is found in log steps.
/// @dev A Fenwick tree: node i holds the sum of the weights (i - lowest bit of i, i]. Leaves are numbered from 1.
library SumTree {
    struct Tree {
        uint128 total;
        uint32 size;
        mapping(uint256 node => uint256) sums;
    }

    /// @notice Adds a leaf at the end and returns its number.
    function push(Tree storage self, uint128 weight) internal returns (uint32 leaf) {
        leaf = ++self.size;
        self.total += weight;
        uint256 sum = weight;
        uint256 low = _lowestBit(leaf);
        for (uint256 step = 1; step < low; step <<= 1) {
            sum += self.sums[leaf - step];
        }
        self.sums[leaf] = sum;
    }

    /// @notice Changes the weight of a leaf, of which the caller knows what it was.
    function update(Tree storage self, uint32 leaf, uint128 before, uint128 weight) internal {
        self.total = self.total - before + weight;
        uint256 size = self.size;
        for (uint256 node = leaf; node <= size; node += _lowestBit(node)) {
            self.sums[node] = self.sums[node] - before + weight;
        }
    }

    /// @notice The leaf that holds `point` of the row, and how far into it. `point` must be below the total.
    function find(Tree storage self, uint256 point) internal view returns (uint32 leaf, uint256 offset) {
        uint256 size = self.size;
        uint256 node;
        uint256 step = 1;
        while (step << 1 <= size) {
            step <<= 1;
        }
        for (; step > 0; step >>= 1) {
            if (node + step > size) continue;
            uint256 sum = self.sums[node + step];
            if (sum > point) continue;
            point -= sum;
            node += step;
        }
        return (uint32(node + 1), point);
    }

    function _lowestBit(uint256 number) private pure returns (uint256) {
        return number & (~number + 1);
    }
}
