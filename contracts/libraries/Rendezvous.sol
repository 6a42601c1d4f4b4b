// SPDX-License-Identifier: Apache-2.0
pragma solidity >=0.8.34 <0.9.0;

import {FixedPointMathLib} from "solady/src/utils/FixedPointMathLib.sol";

/// @notice Draws one of many by weight, each by a number of its own: whoever comes, goes or changes its weight moves
/// nobody else's.
/// @dev A candidate waits for a time that is exponential with its weight as rate, -ln(u) / weight; who waits the shortest
/// is drawn. That is each with a chance in proportion to its weight.
library Rendezvous {
    /// @dev FixedPointMathLib.lnWad(2^128): the logarithms of the ratio u, of 128 bits, are differences from it.
    int256 private constant LN_ALL = 47_276_307_437_780_177_293;

    /// @notice -ln(u) in 1e-18, below 2^68, for a number u in (0, 1] that follows from seed and candidate alone.
    function lot(bytes32 seed, address who) internal pure returns (uint256) {
        uint256 drawn = (uint256(keccak256(abi.encode(seed, who))) >> 128) + 1;
        return uint256(LN_ALL - FixedPointMathLib.lnWad(int256(drawn)));
    }

    /// @notice Whether lot and weight of one candidate go before those of another. Weights must be below 2^188.
    function isBefore(uint256 lot_, uint256 weight, uint256 otherLot, uint256 otherWeight) internal pure returns (bool) {
        return lot_ * otherWeight < otherLot * weight;
    }
}
