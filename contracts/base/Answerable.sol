// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

import {Claims} from "./Claims.sol";
import {Leaf} from "../interfaces/IClaims.sol";
import {IEscrow} from "../interfaces/IEscrow.sol";
import {IFaults} from "../interfaces/IFaults.sol";
import {IRegistry} from "../interfaces/IRegistry.sol";
import {IStaking} from "../interfaces/IStaking.sol";
import {Commit} from "../types/Commit.sol";
import {JobReceipt} from "../types/JobReceipt.sol";

/// @notice Whose stake answers for a receipt: wholly under a commit, within a cap while its node's key lives.
abstract contract Answerable is IFaults, Claims {
    /// @param owner Whom the receipt binds.
    /// @param time When the last commit under which it was shown was made.
    struct Bound {
        address owner;
        uint40 time;
    }

    mapping(bytes32 receiptDigest => Bound) private _bound;

    constructor(IEscrow escrow, IStaking staking, IRegistry registry, FaultParameters memory chosen)
        Claims(escrow, staking, registry, chosen)
    {}

    /// @inheritdoc IFaults
    function bindLeaf(Commit calldata c, Leaf calldata leaf, uint32 count) external {
        _checkCommit(c);
        require(leaf.receipt.node == c.node, FaultsForeignLeaf(c.node, leaf.receipt.node));
        bytes32 digest = _checkLeaf(c, leaf, count);
        uint40 known = _bound[digest].time;
        _bound[digest] = Bound(c.owner, c.time > known ? c.time : known);
        emit LeafBound(digest, c.owner, c.id);
    }

    /// @inheritdoc IFaults
    function boundOwner(bytes32 receiptDigest) external view returns (address) {
        return _bound[receiptDigest].owner;
    }

    /// @dev A fault of the owner that a receipt under a commit binds, or of the node's key as far as that still counts.
    function _answerable(Kind kind, JobReceipt calldata receipt, bytes32 digest, bool bound, uint40 alsoFinishedAt)
        internal
        view
        returns (Fault memory fault)
    {
        fault.kind = kind;
        if (bound) {
            fault.owner = _requireBound(digest);
        } else {
            fault.key = receipt.node;
            fault.owner = _ownerOfLive(receipt, alsoFinishedAt);
        }
    }

    function _requireBound(bytes32 digest) internal view returns (address owner) {
        owner = _bound[digest].owner;
        require(owner != address(0), FaultsNotBound(digest));
    }

    /// @dev What a commit proves is another subject than what signatures alone do: a capped proof must not shield it.
    function _subjectOf(Fault memory fault, bytes32 what) internal pure returns (bytes32) {
        return _subject(fault.kind, fault.key == address(0) ? keccak256(abi.encode(what)) : what);
    }

    /// @dev What contradicts a leaf lies under a commit too, or the leaf was committed not long ago. The commit's time
    /// counts: whoever signs chooses what `finishedAt` says.
    function _requireRecent(bytes32 digest, bytes32 other) internal view {
        if (_bound[other].owner != address(0)) return;
        uint256 until = uint256(_bound[digest].time) + RECEIPT_LIFE;
        require(block.timestamp <= until, FaultsCommitTooOld(digest, until));
    }

    /// @dev The owner answerable for a receipt outside any commit, which is void when late or of a revoked key.
    function _ownerOfLive(JobReceipt calldata receipt, uint40 alsoFinishedAt) private view returns (address owner) {
        bool isRevoked;
        (owner, isRevoked) = REGISTRY.keyOf(receipt.node);
        require(owner != address(0), FaultsUnknownNode(receipt.node));
        uint40 finishedAt = alsoFinishedAt < receipt.finishedAt ? alsoFinishedAt : receipt.finishedAt;
        bool late = block.timestamp > uint256(finishedAt) + RECEIPT_LIFE;
        require(!isRevoked && !late, FaultsReceiptVoid(receipt.node, isRevoked, finishedAt));
    }
}
