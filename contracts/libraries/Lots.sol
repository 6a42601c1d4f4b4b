// SPDX-License-Identifier: Apache-2.0
pragma solidity >=0.8.34 <0.9.0;

/// @notice Points of a line drawn by lot, one after the other, from what is left of it.
/// @dev What is drawn is taken out as a stretch, so that the next lot falls into the rest with equal chance: drawing
/// without replacement, without changing the weights that the line is made of.
library Lots {
    /// @dev The stretches taken out, in order and apart from each other: start << 128 | end.
    struct Line {
        uint256 left;
        uint256 count;
        uint256[] taken;
    }

    /// @notice A line of this length, below 2^128, for at most so many stretches to be taken out.
    function line(uint256 length, uint256 most) internal pure returns (Line memory self) {
        self.left = length;
        self.taken = new uint256[](most);
    }

    /// @notice The point of turn `turn`, and how many stretches were taken out before it on the line. The bias of the
    /// modulus is below 2^-128.
    function draw(Line memory self, bytes32 seed, uint256 turn) internal pure returns (uint256 point, uint256 place) {
        point = uint256(keccak256(abi.encode(seed, turn))) % self.left;
        uint256[] memory taken = self.taken;
        uint256 count = self.count;
        unchecked {
            for (; place < count; ++place) {
                uint256 stretch = taken[place];
                uint256 start = stretch >> 128;
                if (point < start) break;
                point += uint128(stretch) - start;
            }
        }
    }

    /// @notice Takes out [start, end), which holds the point last drawn at `place`, and of which nothing was taken out.
    function remove(Line memory self, uint256 place, uint256 start, uint256 end) internal pure {
        uint256[] memory taken = self.taken;
        uint256 count = self.count++;
        taken[count] = 0; // panics when no more can be taken out
        assembly ("memory-safe") {
            let here := add(add(taken, 0x20), shl(5, place))
            mcopy(add(here, 0x20), here, shl(5, sub(count, place)))
            mstore(here, or(shl(128, start), end))
        }
        self.left -= end - start;
    }
}
