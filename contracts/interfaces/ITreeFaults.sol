// SPDX-License-Identifier: Apache-2.0
pragma solidity >=0.8.34 <0.9.0;

import {IClaims, Leaf} from "./IClaims.sol";
import {Commit} from "../types/Commit.sol";
import {JobRequest} from "../types/JobRequest.sol";

/// @title TreeFaults
/// @notice Punishes what is wrong with the tree under a commit, on anybody's call and without a jury.
/// @dev A tree is punished once for all that is wrong with it; a late leaf loses its fee alone.
interface ITreeFaults is IClaims {
    /// @notice The packed ranges do not hash to the commit's.
    error FaultsWrongRanges(bytes32 expected, bytes32 given);
    /// @notice The leaf is signed by the commit's node.
    error FaultsLeafSigned(bytes32 receiptDigest);
    /// @notice The leaf is a proper one.
    error FaultsLeafProper(bytes32 receiptDigest);
    /// @notice The commit's step is not wider than the model of the leaf allows.
    error FaultsStepFits(uint96 step, uint256 widest);
    /// @notice The leaves given are not neighbours.
    error FaultsNotNeighbours(uint32 left, uint32 right, uint32 count);
    /// @notice The neighbours are in order and cover the range between them.
    error FaultsTilingCorrect();
    /// @notice The leaf was committed in time.
    error FaultsLeafInTime(uint40 committedAt, uint256 until);
    /// @notice The commit collected nothing of this receipt in this range.
    error FaultsNothingCollected(bytes32 receiptDigest);

    /// @notice A leaf under a commit that is no receipt digest with the node's signature. Evidence: keccak(leafData).
    /// @param c The commit.
    /// @param leafData The leaf's data, whatever it is.
    /// @param index Its place.
    /// @param count The number of leaves.
    /// @param proof Its siblings from the leaf up.
    /// @param salt The claim's salt.
    function proveUnsignedLeaf(
        Commit calldata c,
        bytes calldata leafData,
        uint32 index,
        uint32 count,
        bytes32[] calldata proof,
        bytes32 salt
    ) external;

    /// @notice A leaf under a commit whose receipt is another node's, moves no money, or names a model and profile that no
    /// node of the owner ever declared: no court could judge it. Evidence: the receipt's digest.
    function proveImproperLeaf(Commit calldata c, Leaf calldata leaf, uint32 count, bytes32 salt) external;

    /// @notice A leaf under a commit whose audit points lie further apart than the unit of the leaf's model allows: its node
    /// was registered for a dearer model alone. A node's unit only falls, so whoever serves what it is registered for
    /// never shows one. Evidence: the receipt's digest.
    function proveThinLeaf(Commit calldata c, Leaf calldata leaf, uint32 count, bytes32 salt) external;

    /// @notice Neighbouring leaves of a commit that are out of order, leave a gap, overlap or repeat, or that leave a
    /// range of the commit uncovered. Evidence: keccak(abi.encode(commit id, digests of the neighbours)), zero for none.
    /// @param c The commit.
    /// @param ranges Its packed ranges.
    /// @param rangeIndex The range that is compared with the neighbours.
    /// @param neighbours One or two leaves; two adjacent ones, or the first, or the last, or none of an empty tree.
    /// @param count The number of leaves.
    /// @param salt The claim's salt.
    function proveTiling(
        Commit calldata c,
        bytes calldata ranges,
        uint256 rangeIndex,
        Leaf[] calldata neighbours,
        uint32 count,
        bytes32 salt
    ) external;

    /// @notice A leaf whose receipt was committed more than `lateSeconds` after the deadline of its request: what this
    /// commit collected of its fee goes back to the payer. Evidence: the receipt's digest.
    /// @param c The commit.
    /// @param leaf The receipt, with its path.
    /// @param count The number of leaves.
    /// @param request The request that the receipt names.
    /// @param ranges The commit's packed ranges.
    /// @param rangeIndex The range of the receipt's channel.
    /// @param salt The claim's salt.
    function proveLateLeaf(
        Commit calldata c,
        Leaf calldata leaf,
        uint32 count,
        JobRequest calldata request,
        bytes calldata ranges,
        uint256 rangeIndex,
        bytes32 salt
    ) external;
}
