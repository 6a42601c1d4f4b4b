// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

import {Math} from "@openzeppelin/contracts/utils/math/Math.sol";

import {Claims} from "./base/Claims.sol";
import {Leaf} from "./interfaces/IClaims.sol";
import {IEscrow} from "./interfaces/IEscrow.sol";
import {IRegistry} from "./interfaces/IRegistry.sol";
import {IStaking} from "./interfaces/IStaking.sol";
import {ITreeFaults} from "./interfaces/ITreeFaults.sol";
import {Merkle} from "./libraries/Merkle.sol";
import {Signatures} from "./libraries/Signatures.sol";
import {Tiling as TilingRules} from "./libraries/Tiling.sol";
import {Commit} from "./types/Commit.sol";
import {JobReceipt} from "./types/JobReceipt.sol";
import {JobRequest} from "./types/JobRequest.sol";
import {Range, rangeAt} from "./types/Range.sol";

/// @notice See ITreeFaults.
contract TreeFaults is ITreeFaults, Claims {
    /// @dev Bytes of a leaf: receipt digest 32, signature 64.
    uint256 private constant LEAF_SIZE = 96;

    constructor(IEscrow escrow, IStaking staking, IRegistry registry, FaultParameters memory chosen)
        Claims(escrow, staking, registry, chosen)
    {}

    /// @inheritdoc ITreeFaults
    function proveUnsignedLeaf(
        Commit calldata c,
        bytes calldata leafData,
        uint32 index,
        uint32 count,
        bytes32[] calldata proof,
        bytes32 salt
    ) external {
        _checkCommit(c);
        _useClaim(keccak256(leafData), salt);
        bool under = Merkle.verify(c.receiptsRoot, Merkle.leaf(leafData), index, count, count, proof);
        require(under, FaultsNotUnderRoot(c.receiptsRoot, index, count));
        if (leafData.length == LEAF_SIZE) {
            bytes32 digest = bytes32(leafData[:32]);
            require(Signatures.recover(digest, leafData[32:]) != c.node, FaultsLeafSigned(digest));
        }
        _proveCommit(Kind.Leaf, c);
    }

    /// @inheritdoc ITreeFaults
    function proveImproperLeaf(Commit calldata c, Leaf calldata leaf, uint32 count, bytes32 salt) external {
        _checkCommit(c);
        bytes32 digest = _checkLeaf(c, leaf, count);
        _useClaim(digest, salt);
        JobReceipt calldata r = leaf.receipt;
        bool proper = r.node == c.node && r.cumTo > r.cumFrom && REGISTRY.hasServed(c.owner, r.modelId, r.profileId);
        require(!proper, FaultsLeafProper(digest));
        _proveCommit(Kind.Leaf, c);
    }

    /// @inheritdoc ITreeFaults
    function proveThinLeaf(Commit calldata c, Leaf calldata leaf, uint32 count, bytes32 salt) external {
        _checkCommit(c);
        bytes32 digest = _checkLeaf(c, leaf, count);
        _useClaim(digest, salt);
        uint256 widest = _widestStep(leaf.receipt.modelId, c.sharePpm);
        require(c.step > widest, FaultsStepFits(c.step, widest));
        _proveCommit(Kind.Leaf, c);
    }

    /// @inheritdoc ITreeFaults
    function proveTiling(
        Commit calldata c,
        bytes calldata ranges,
        uint256 rangeIndex,
        Leaf[] calldata neighbours,
        uint32 count,
        bytes32 salt
    ) external {
        _checkCommit(c);
        _checkRanges(c, ranges);
        _checkNeighbours(c, neighbours, count, salt);
        require(_isBroken(c, rangeAt(ranges, rangeIndex), neighbours, count), FaultsTilingCorrect());
        _proveCommit(Kind.Tiling, c);
    }

    /// @inheritdoc ITreeFaults
    function proveLateLeaf(
        Commit calldata c,
        Leaf calldata leaf,
        uint32 count,
        JobRequest calldata request,
        bytes calldata ranges,
        uint256 rangeIndex,
        bytes32 salt
    ) external {
        _checkCommit(c);
        _checkRanges(c, ranges);
        bytes32 digest = _checkLeaf(c, leaf, count);
        _useClaim(digest, salt);
        _checkRequest(leaf.receipt, request);
        uint256 until = uint256(request.deadline) + LATE_AFTER;
        require(c.time > until, FaultsLeafInTime(c.time, until));
        Range memory range = rangeAt(ranges, rangeIndex);
        uint96 fee = _collectedOf(leaf.receipt, range, c.node);
        require(fee > 0, FaultsNothingCollected(digest));

        Fault memory fault;
        fault.kind = Kind.LateLeaf;
        fault.owner = c.owner;
        // Of a straddling receipt each commit collected a part, and one that names a channel twice several.
        fault.receipt = keccak256(abi.encode(digest, c.id, range.before));
        fault.payer = leaf.receipt.payer;
        fault.refund = fee;
        _prove(fault, _subject(Kind.LateLeaf, fault.receipt));
    }

    /// @dev A commit is punished once for all that is wrong with its tree.
    function _proveCommit(Kind kind, Commit calldata c) private {
        Fault memory fault;
        fault.kind = kind;
        fault.owner = c.owner;
        _prove(fault, _subject(Kind.Tiling, bytes32(uint256(c.id))));
    }

    /// @dev The widest step between audit points of a model's money, at the audit level that a share tells.
    function _widestStep(bytes32 modelId, uint32 sharePpm) private view returns (uint256) {
        IRegistry.Parameters memory rules = REGISTRY.parameters();
        uint256 units = rules.establishedStepUnits;
        if (sharePpm != rules.establishedSharePpm) units = rules.newStepUnits;
        return REGISTRY.modelUnit(modelId) * units;
    }

    /// @dev What of the receipt's fee lies in a range of its channel.
    function _collectedOf(JobReceipt calldata receipt, Range memory range, address node) private pure returns (uint96) {
        if (bytes32(TilingRules.keyOf(receipt)) != range.channelKeyOf(node)) return 0;
        uint256 from = Math.max(receipt.cumFrom, range.before);
        uint256 upto = Math.min(receipt.cumTo, range.upto);
        return upto > from ? uint96(upto - from) : 0;
    }

    function _checkRanges(Commit calldata c, bytes calldata ranges) private pure {
        require(keccak256(ranges) == c.rangesHash, FaultsWrongRanges(c.rangesHash, keccak256(ranges)));
    }

    function _checkNeighbours(Commit calldata c, Leaf[] calldata neighbours, uint32 count, bytes32 salt) private {
        uint32 left = neighbours.length > 0 ? neighbours[0].index : 0;
        uint32 right = neighbours.length > 1 ? neighbours[1].index : left;
        bool adjacent = neighbours.length == 2 && right == uint256(left) + 1;
        bool atEdge = neighbours.length == 1 && (left == 0 || uint256(left) + 1 == count);
        bool empty = neighbours.length == 0 && count == 0;
        require(adjacent || atEdge || empty, FaultsNotNeighbours(left, right, count));
        if (empty) {
            bytes32 emptyRoot = Merkle.seal(0, bytes32(0));
            require(c.receiptsRoot == emptyRoot, FaultsNotUnderRoot(c.receiptsRoot, 0, 0));
        }
        bytes32[2] memory digests;
        for (uint256 i; i < neighbours.length; ++i) {
            digests[i] = _checkLeaf(c, neighbours[i], count);
        }
        _useClaim(keccak256(abi.encode(c.id, digests[0], digests[1])), salt);
    }

    function _isBroken(Commit calldata c, Range memory range, Leaf[] calldata neighbours, uint32 count)
        private
        pure
        returns (bool)
    {
        uint256 channel = uint256(range.channelKeyOf(c.node));
        JobReceipt[] memory none = new JobReceipt[](0);
        if (neighbours.length == 0) return true;
        JobReceipt[] memory left = new JobReceipt[](1);
        left[0] = neighbours[0].receipt;
        if (neighbours.length == 2) {
            JobReceipt[] memory right = new JobReceipt[](1);
            right[0] = neighbours[1].receipt;
            return !TilingRules.inOrder(left[0], right[0])
                || !TilingRules.covers(channel, range.before, range.upto, left, right);
        }
        bool first = neighbours[0].index == 0 && !TilingRules.covers(channel, range.before, range.upto, none, left);
        bool last =
            uint256(neighbours[0].index) + 1 == count && !TilingRules.covers(channel, range.before, range.upto, left, none);
        return first || last;
    }
}
