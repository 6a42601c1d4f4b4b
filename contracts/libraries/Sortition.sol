// SPDX-License-Identifier: Apache-2.0
pragma solidity >=0.8.34 <0.9.0;

/// @notice Draws people by lot, each with a chance in proportion to a weight, nobody twice.
library Sortition {
    /// @notice Draws up to `size` of `people` without replacement; fewer when fewer have weight.
    /// @dev Consumes `weights`: those drawn are zero afterwards. The bias of the modulus is below 2^-128 for any sum
    /// of weights below 2^128.
    function draw(bytes32 seed, address[] memory people, uint256[] memory weights, uint256 size)
        internal
        pure
        returns (address[] memory drawn)
    {
        uint256 total;
        uint256 able;
        for (uint256 i; i < weights.length; ++i) {
            total += weights[i];
            if (weights[i] > 0) ++able;
        }
        drawn = new address[](size < able ? size : able);
        for (uint256 turn; turn < drawn.length; ++turn) {
            uint256 ticket = uint256(keccak256(abi.encode(seed, turn))) % total;
            uint256 i;
            while (ticket >= weights[i]) {
                ticket -= weights[i];
                ++i;
            }
            drawn[turn] = people[i];
            total -= weights[i];
            weights[i] = 0;
        }
    }
}
