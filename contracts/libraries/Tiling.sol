// SPDX-License-Identifier: Apache-2.0
pragma solidity >=0.8.34 <0.9.0;

import {JobReceipt} from "../types/JobReceipt.sol";
import {channelKey} from "../types/Range.sol";

/// @notice Whether neighbouring leaves of a receipts tree tile the money lines as a commit promised (R-15, R-20).
library Tiling {
    /// @notice Key of a receipt's channel.
    function keyOf(JobReceipt memory receipt) internal pure returns (uint256) {
        return uint256(channelKey(receipt.payer, receipt.signer, receipt.node, receipt.lane));
    }

    /// @notice Whether two adjacent leaves are in order, without gap, overlap or repetition.
    function inOrder(JobReceipt memory left, JobReceipt memory right) internal pure returns (bool) {
        uint256 a = keyOf(left);
        uint256 b = keyOf(right);
        return a == b ? left.cumTo == right.cumFrom : a < b;
    }

    /// @notice Whether a range is covered as far as these neighbours can tell.
    /// @param left What lies before the place between two leaves: empty at the start of the tree.
    /// @param right What lies after it: empty at its end.
    function covers(
        uint256 channel,
        uint96 before,
        uint96 upto,
        JobReceipt[] memory left,
        JobReceipt[] memory right
    ) internal pure returns (bool) {
        bool startsAfter = left.length == 0 || keyOf(left[0]) < channel;
        bool endsBefore = right.length == 0 || keyOf(right[0]) > channel;
        if (startsAfter && endsBefore) return false; // no leaf of the channel lies between these two
        if (startsAfter && keyOf(right[0]) == channel) return right[0].cumFrom <= before;
        if (endsBefore && keyOf(left[0]) == channel) return left[0].cumTo >= upto;
        return true;
    }
}
