// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

import {Signatures} from "../../contracts/libraries/Signatures.sol";
import {Range, rangeAt, rangeCount} from "../../contracts/types/Range.sol";

/// @notice Reads packed ranges and signatures for a test.
contract TypesProbe {
    function count(bytes calldata ranges) external pure returns (uint256) {
        return rangeCount(ranges);
    }

    function split(bytes calldata signature) external pure returns (bytes32 r, bytes32 vs) {
        return Signatures.split(signature);
    }

    function rangeOf(bytes calldata ranges, uint256 index, address node) external pure returns (Range memory, bytes32) {
        Range memory range = rangeAt(ranges, index);
        return (range, range.channelKeyOf(node));
    }
}
