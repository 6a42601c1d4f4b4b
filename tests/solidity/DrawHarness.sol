// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

import {IJurorPools} from "../../contracts/interfaces/IJurorPools.sol";

/// @notice Draws many juries of a pool in one call.
contract DrawHarness {
    /// @notice The jury of each seed, without those that `seated` names where enough others exist.
    function draws(IJurorPools pools, bytes32[] calldata seeds, uint256 size, address party, address[][] calldata seated)
        external
        view
        returns (address[][] memory juries)
    {
        juries = new address[][](seeds.length);
        address[] memory parties = new address[](1);
        parties[0] = party;
        for (uint256 i; i < seeds.length; ++i) {
            juries[i] = pools.draw(1, seeds[i], size, block.timestamp, parties, seated[i]);
        }
    }
}
