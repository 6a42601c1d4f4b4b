// SPDX-License-Identifier: Apache-2.0
pragma solidity >=0.8.34 <0.9.0;

/// @dev Bytes of one packed range: payer 20, signer 20, lane 4, before 12, upto 12.
uint256 constant RANGE_SIZE = 68;

error RangeOutOfBounds(uint256 index, uint256 count);
error RangesMalformed(uint256 length);

/// @notice The money [before, upto) that a commit collected from one channel of its node.
struct Range {
    address payer;
    address signer;
    uint32 lane;
    uint96 before;
    uint96 upto;
}

using {channelKeyOf} for Range global;

/// @notice Key of the channel (payer, signer, node, lane), R-18.
/// @dev keccak of the four packed: exactly two words, so hashed in scratch space, without allocating.
function channelKey(address payer, address signer, address node, uint32 lane) pure returns (bytes32 key) {
    uint256 high = (uint256(uint160(payer)) << 96) | (uint160(signer) >> 64);
    uint256 low = (uint256(uint160(signer)) << 192) | (uint256(uint160(node)) << 32) | lane;
    assembly ("memory-safe") {
        mstore(0x00, high)
        mstore(0x20, low)
        key := keccak256(0x00, 0x40)
    }
}

/// @notice Key of the range's channel at `node`.
function channelKeyOf(Range memory self, address node) pure returns (bytes32) {
    return channelKey(self.payer, self.signer, node, self.lane);
}

/// @notice Number of packed ranges in `ranges`.
function rangeCount(bytes calldata ranges) pure returns (uint256) {
    require(ranges.length % RANGE_SIZE == 0, RangesMalformed(ranges.length));
    return ranges.length / RANGE_SIZE;
}

/// @notice What all packed ranges come to.
function moneyIn(bytes calldata ranges) pure returns (uint96 money) {
    uint256 count = rangeCount(ranges);
    for (uint256 i; i < count; ++i) {
        bytes calldata ends = ranges[i * RANGE_SIZE + 44:(i + 1) * RANGE_SIZE];
        money += uint96(bytes12(ends[12:24])) - uint96(bytes12(ends[0:12]));
    }
}

/// @notice The packed range at `index`.
function rangeAt(bytes calldata ranges, uint256 index) pure returns (Range memory range) {
    uint256 count = rangeCount(ranges);
    require(index < count, RangeOutOfBounds(index, count));
    bytes calldata packed = ranges[index * RANGE_SIZE:(index + 1) * RANGE_SIZE];
    range.payer = address(bytes20(packed[0:20]));
    range.signer = address(bytes20(packed[20:40]));
    range.lane = uint32(bytes4(packed[40:44]));
    range.before = uint96(bytes12(packed[44:56]));
    range.upto = uint96(bytes12(packed[56:68]));
}
