// SPDX-License-Identifier: Apache-2.0
pragma solidity >=0.8.34 <0.9.0;

import {IRandomness} from "../interfaces/IRandomness.sol";

/// @notice Which block seeds a draw whose appointed block nobody used in time.
library SeedBlocks {
    /// @notice The appointed block, rolled on by halves of the window until its hash can still be read (R-25).
    /// @dev Nobody chooses the block by waiting: each candidate is fixed by the appointment alone.
    function current(IRandomness randomness, uint256 appointed) internal view returns (uint256) {
        uint256 window = randomness.window();
        uint256 number = randomness.currentBlock();
        if (number <= appointed + window) return appointed;
        uint256 half = window / 2;
        uint256 late = number - appointed - window;
        return appointed + ((late + half - 1) / half) * half;
    }
}
