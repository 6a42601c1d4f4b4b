// SPDX-License-Identifier: Apache-2.0
pragma solidity >=0.8.34 <0.9.0;

/// @title Randomness from blocks that do not exist yet
/// @notice Names a future block and later reads its hash. A chain whose blocks are no randomness gets another adapter.
interface IRandomness {
    /// @notice Number of the block that is being built now, in the numbering of `blockHash`.
    function currentBlock() external view returns (uint256);

    /// @notice How many past blocks `blockHash` can read.
    function window() external view returns (uint256);

    /// @notice Hash of block `number`; zero while it does not exist and after it has left the window.
    function blockHash(uint256 number) external view returns (bytes32);
}
