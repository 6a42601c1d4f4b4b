// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

import {IRandomness} from "./interfaces/IRandomness.sol";

/// @notice Block hashes from EIP-2935's history where the chain keeps it, else from the last 256 blocks.
contract BlockhashRandomness is IRandomness {
    /// @dev Where EIP-2935 puts the history on every chain.
    address private constant HISTORY = 0x0000F90827F1C53a10cb7A02335B175320002935;
    uint256 private constant HISTORY_WINDOW = 8191;
    uint256 private constant OPCODE_WINDOW = 256;

    /// @inheritdoc IRandomness
    function currentBlock() external view returns (uint256) {
        return block.number;
    }

    /// @inheritdoc IRandomness
    function window() public view returns (uint256) {
        return HISTORY.code.length == 0 ? OPCODE_WINDOW : HISTORY_WINDOW;
    }

    /// @inheritdoc IRandomness
    function blockHash(uint256 number) external view returns (bytes32) {
        if (number >= block.number || number + window() < block.number) return bytes32(0);
        if (number + OPCODE_WINDOW >= block.number) return blockhash(number);
        (bool ok, bytes memory answer) = HISTORY.staticcall(abi.encode(number));
        return ok && answer.length == 32 ? abi.decode(answer, (bytes32)) : bytes32(0);
    }
}
