// SPDX-License-Identifier: Apache-2.0
pragma solidity >=0.8.34 <0.9.0;

/// @notice Points of a line drawn by lot, one after the other, from what is left of it.
/// @dev What is drawn is taken out as a stretch, so that the next lot falls into the rest with equal chance: drawing
/// without replacement, without changing the weights that the line is made of.
library Lots {
    /// @dev The stretches taken out, in order and apart from each other.
    struct Line {
        uint256 left;
        uint256 count;
        uint256[] starts;
        uint256[] ends;
    }

    /// @notice A line of this length, for at most so many stretches to be taken out.
    function line(uint256 length, uint256 most) internal pure returns (Line memory self) {
        self.left = length;
        self.starts = new uint256[](most);
        self.ends = new uint256[](most);
    }

    /// @notice The point of turn `turn`. The bias of the modulus is below 2^-128 for lines below 2^128.
    function draw(Line memory self, bytes32 seed, uint256 turn) internal pure returns (uint256 point) {
        point = uint256(keccak256(abi.encode(seed, turn))) % self.left;
        for (uint256 i; i < self.count && point >= self.starts[i]; ++i) {
            point += self.ends[i] - self.starts[i];
        }
    }

    /// @notice Takes out [start, end), of which nothing was taken out before.
    function remove(Line memory self, uint256 start, uint256 end) internal pure {
        uint256 place = self.count++;
        for (; place > 0 && self.starts[place - 1] > start; --place) {
            self.starts[place] = self.starts[place - 1];
            self.ends[place] = self.ends[place - 1];
        }
        self.starts[place] = start;
        self.ends[place] = end;
        self.left -= end - start;
    }
}
