// SPDX-License-Identifier: Apache-2.0
pragma solidity >=0.8.34 <0.9.0;

import {Commit} from "../types/Commit.sol";
import {Range, rangeAt, rangeCount} from "../types/Range.sol";

/// @notice The money points of a commit that its seed draws for audit (R-24).
library AuditPoints {
    /// @notice The point of step `k` on a channel's money line.
    function pointAt(bytes32 seed, bytes32 channel, uint256 k, uint96 step) internal pure returns (uint256) {
        return k * step + uint256(keccak256(abi.encode(seed, channel, k))) % step;
    }

    /// @notice How many points lie in the ranges of a commit.
    function count(bytes32 seed, Commit memory c, bytes calldata ranges) internal pure returns (uint256 total) {
        return countBefore(seed, c, ranges, rangeCount(ranges));
    }

    /// @notice How many points lie in the first `n` ranges of a commit.
    function countBefore(bytes32 seed, Commit memory c, bytes calldata ranges, uint256 n)
        internal
        pure
        returns (uint256 total)
    {
        for (uint256 i; i < n; ++i) {
            Range memory range = rangeAt(ranges, i);
            total += countIn(seed, range.channelKeyOf(c.node), range.before, range.upto, c.step);
        }
    }

    /// @notice How many points lie in [before, upto) of a channel.
    /// @dev Steps that lie wholly inside hold one point each; only the two at the edges have to be looked at.
    function countIn(bytes32 seed, bytes32 channel, uint256 before, uint256 upto, uint96 step)
        internal
        pure
        returns (uint256 total)
    {
        if (upto <= before) return 0;
        uint256 first = before / step;
        uint256 last = (upto - 1) / step;
        uint256 point = pointAt(seed, channel, first, step);
        if (point >= before && point < upto) total = 1;
        if (last > first) {
            total += last - first - 1;
            if (pointAt(seed, channel, last, step) < upto) ++total;
        }
    }
}
