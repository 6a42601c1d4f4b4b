// SPDX-License-Identifier: Apache-2.0
pragma solidity >=0.8.34 <0.9.0;

import {IFaults, OutputLeaf} from "../interfaces/IFaults.sol";
import {Merkle} from "./Merkle.sol";
import {Chunk} from "../types/Chunk.sol";
import {JobReceipt} from "../types/JobReceipt.sol";

/// @notice What the token trees of a receipt and of a chunk say (R-16, R-17), and what its params allow (R-30).
library Outputs {
    /// @dev Bytes of a leaf's position and of a token id; with its quantised logprob a token takes six.
    uint256 private constant POSITION_SIZE = 4;
    uint256 private constant ID_SIZE = 4;
    uint256 private constant TOKEN_SIZE = 6;
    bytes private constant MAX_TOKENS_KEY = '"maxTokens":';

    /// @notice Whether a chunk and a receipt of one segment differ in what both hold.
    /// @dev Equal lengths are compared by root, others in one leaf by the ids that both have in it. A leaf that holds
    /// another number of tokens than its root counts is a contradiction by itself.
    function differ(
        Chunk calldata chunk,
        JobReceipt calldata receipt,
        uint256 index,
        OutputLeaf calldata inChunk,
        OutputLeaf calldata inReceipt
    ) internal pure returns (bool) {
        uint256 chunkCount = _span(chunk.outputFrom, chunk.outputTo);
        uint256 receiptCount = _span(receipt.outputFrom, receipt.outputTo);
        if (chunkCount == receiptCount) return chunk.outputRoot != receipt.outputRoot;
        uint256 a = _tokensAt(chunk.outputRoot, chunkCount, index, inChunk);
        uint256 b = _tokensAt(receipt.outputRoot, receiptCount, index, inReceipt);
        if (inChunk.data.length != POSITION_SIZE + a * TOKEN_SIZE) return true;
        if (inReceipt.data.length != POSITION_SIZE + b * TOKEN_SIZE) return true;
        uint256 both = POSITION_SIZE + (a < b ? a : b) * ID_SIZE;
        return keccak256(inChunk.data[:both]) != keccak256(inReceipt.data[:both]);
    }

    /// @notice Root of one of a receipt's trees, and the count that the receipt states beside it.
    function statedOf(JobReceipt calldata receipt, IFaults.Tree tree)
        internal
        pure
        returns (bytes32 root, uint256 count)
    {
        if (tree == IFaults.Tree.Prompt) return (receipt.promptRoot, receipt.promptTokens);
        if (tree == IFaults.Tree.Prefix) return (receipt.prefixRoot, receipt.outputFrom);
        return (receipt.outputRoot, _span(receipt.outputFrom, receipt.outputTo));
    }

    /// @notice The number after `"maxTokens":` at a place of canonical params. No string in them can hold that key:
    /// its quotes would be escaped there.
    function maxTokensAt(bytes calldata params, uint256 offset) internal pure returns (bool found, uint256 value) {
        if (offset > params.length || params.length - offset < MAX_TOKENS_KEY.length) return (false, 0);
        uint256 start = offset + MAX_TOKENS_KEY.length;
        if (keccak256(params[offset:start]) != keccak256(MAX_TOKENS_KEY)) return (false, 0);
        uint256 end = start;
        for (; end < params.length && end < start + 10; ++end) {
            uint8 digit = uint8(params[end]);
            if (digit < 48 || digit > 57) break;
            value = value * 10 + digit - 48;
        }
        return (end > start, value);
    }

    /// @dev How many tokens leaf `index` of a tree of `count` holds; reverts unless the leaf is under the root.
    function _tokensAt(bytes32 root, uint256 count, uint256 index, OutputLeaf calldata leaf)
        private
        pure
        returns (uint256)
    {
        uint256 leaves = (count + Merkle.CHUNK - 1) / Merkle.CHUNK;
        bool under = Merkle.verify(root, Merkle.leaf(leaf.data), index, leaves, count, leaf.proof);
        require(under, IFaults.FaultsNotInOutput(root, index));
        uint256 left = count - index * Merkle.CHUNK;
        return left < Merkle.CHUNK ? left : Merkle.CHUNK;
    }

    function _span(uint32 from, uint32 to) private pure returns (uint256) {
        return to > from ? to - from : 0;
    }
}
