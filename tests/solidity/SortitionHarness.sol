// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

import {Sortition} from "../../contracts/libraries/Sortition.sol";

/// @notice Draws many juries in one call.
contract SortitionHarness {
    /// @notice The juries that `draws` consecutive seeds draw.
    function draws(uint256 first, uint256 amount, address[] memory people, uint256[] memory weights, uint256 size)
        external
        pure
        returns (address[][] memory juries)
    {
        juries = new address[][](amount);
        for (uint256 i; i < amount; ++i) {
            uint256[] memory copy = new uint256[](weights.length);
            for (uint256 j; j < weights.length; ++j) {
                copy[j] = weights[j];
            }
            juries[i] = Sortition.draw(keccak256(abi.encode(first + i)), people, copy, size);
        }
    }
}
