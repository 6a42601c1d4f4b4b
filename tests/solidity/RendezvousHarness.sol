// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

import {FixedPointMathLib} from "solady/src/utils/FixedPointMathLib.sol";

import {Rendezvous} from "../../contracts/libraries/Rendezvous.sol";

/// @notice Draws many times in one call.
contract RendezvousHarness {
    /// @notice Whom each of `amount` consecutive seeds draws, by place.
    function draws(uint256 first, uint256 amount, address[] memory people, uint256[] memory weights)
        external
        pure
        returns (uint256[] memory drawn)
    {
        drawn = new uint256[](amount);
        for (uint256 i; i < amount; ++i) {
            uint256 best;
            uint256 least = type(uint256).max;
            for (uint256 j; j < people.length; ++j) {
                uint256 drawnLot = Rendezvous.lot(keccak256(abi.encode(first + i)), people[j]);
                bool isFirst = least == type(uint256).max || Rendezvous.isBefore(drawnLot, weights[j], least, weights[best]);
                if (weights[j] != 0 && isFirst) (best, least) = (j, drawnLot);
            }
            drawn[i] = best;
        }
    }

    /// @notice The lot of a candidate.
    function lot(bytes32 seed, address who) external pure returns (uint256) {
        return Rendezvous.lot(seed, who);
    }

    /// @notice The logarithm of 2^128 from which lots are counted.
    function lnAll() external pure returns (int256) {
        return FixedPointMathLib.lnWad(1 << 128);
    }
}
