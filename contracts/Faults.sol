// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

import {Claims} from "./base/Claims.sol";
import {IEscrow} from "./interfaces/IEscrow.sol";
import {IFaults, Leaf} from "./interfaces/IFaults.sol";
import {IRegistry} from "./interfaces/IRegistry.sol";
import {IStaking} from "./interfaces/IStaking.sol";
import {Billing as BillingRules} from "./libraries/Billing.sol";
import {Merkle} from "./libraries/Merkle.sol";
import {Signatures} from "./libraries/Signatures.sol";
import {Tiling as TilingRules} from "./libraries/Tiling.sol";
import {Assignment} from "./types/Assignment.sol";
import {Commit} from "./types/Commit.sol";
import {JobReceipt} from "./types/JobReceipt.sol";
import {JobRequest} from "./types/JobRequest.sol";
import {Offence} from "./types/Offence.sol";
import {Offer} from "./types/Offer.sol";
import {Range, rangeAt} from "./types/Range.sol";
import {OPERATOR, ROUTER, VERIFIER} from "./types/Role.sol";
import {Verdict} from "./types/Verdict.sol";

/// @notice See IFaults.
contract Faults is Claims {
    /// @dev Bytes of a leaf: receipt digest 32, signature 64.
    uint256 private constant LEAF_SIZE = 96;

    constructor(IEscrow escrow, IStaking staking, IRegistry registry, FaultParameters memory chosen)
        Claims(escrow, staking, registry, chosen)
    {}

    /// @inheritdoc IFaults
    function proveConflict(
        JobReceipt calldata a,
        bytes calldata signatureA,
        JobReceipt calldata b,
        bytes calldata signatureB,
        bytes32 salt
    ) external {
        bool sameWork = a.node == b.node && a.jobId == b.jobId && a.choice == b.choice;
        bool overlap = a.outputFrom < b.outputTo && b.outputFrom < a.outputTo;
        require(sameWork && overlap, FaultsNoContradiction());
        _checkPair(a.hash(), signatureA, b.hash(), signatureB, a.node, salt);
        address owner = _ownerOfLive(a);
        _ownerOfLive(b);

        bytes32 what = keccak256(abi.encode(a.node, a.jobId, a.choice));
        _punishSigned(Kind.Conflict, _subject(Kind.Conflict, what), owner, a, bytes32(0));
    }

    /// @inheritdoc IFaults
    function proveOverbilling(
        JobReceipt calldata receipt,
        bytes calldata signature,
        Offer calldata offer,
        JobRequest calldata request,
        bytes32 salt
    ) external {
        (bytes32 digest, address owner) = _checkReferences(receipt, signature, offer, request, salt);
        (Billing wrong, uint256 billed, uint256 allowed) = BillingRules.check(receipt, offer, request);
        require(wrong != Billing.Correct, FaultsBillingCorrect(billed, allowed));
        _punishSigned(Kind.Overbilling, _subject(Kind.Overbilling, digest), owner, receipt, digest);
    }

    /// @inheritdoc IFaults
    function proveDeviation(
        JobReceipt calldata receipt,
        bytes calldata signature,
        Offer calldata offer,
        JobRequest calldata request,
        bytes32 salt
    ) external {
        (bytes32 digest, address owner) = _checkReferences(receipt, signature, offer, request, salt);
        Deviation found = BillingRules.deviation(receipt, offer, request);
        require(found != Deviation.None, FaultsNoDeviation(digest));
        _punishSigned(Kind.Deviation, _subject(Kind.Deviation, digest), owner, receipt, digest);
    }

    /// @inheritdoc IFaults
    function proveUnsignedLeaf(
        Commit calldata c,
        bytes calldata leafData,
        uint32 index,
        uint32 count,
        bytes32[] calldata proof,
        bytes32 salt
    ) external {
        require(ESCROW.isCommit(c), FaultsUnknownCommit(c.id));
        _checkClaim(keccak256(leafData), salt);
        bool under = Merkle.verify(c.receiptsRoot, Merkle.leaf(leafData), index, count, count, proof);
        require(under, FaultsNotUnderRoot(c.receiptsRoot, index, count));
        if (leafData.length == LEAF_SIZE) {
            bytes32 digest = bytes32(leafData[:32]);
            require(Signatures.recover(digest, leafData[32:]) != c.node, FaultsLeafSigned(digest));
        }
        _punishCommit(Kind.Leaf, c);
    }

    /// @inheritdoc IFaults
    function proveImproperLeaf(Commit calldata c, Leaf calldata leaf, uint32 count, bytes32 salt) external {
        require(ESCROW.isCommit(c), FaultsUnknownCommit(c.id));
        bytes32 digest = _checkLeaf(c, leaf, count);
        _checkClaim(digest, salt);
        bool proper = leaf.receipt.node == c.node && leaf.receipt.cumTo > leaf.receipt.cumFrom;
        require(!proper, FaultsLeafProper(digest));
        _punishCommit(Kind.Leaf, c);
    }

    /// @inheritdoc IFaults
    function proveTiling(
        Commit calldata c,
        bytes calldata ranges,
        uint256 rangeIndex,
        Leaf[] calldata neighbours,
        uint32 count,
        bytes32 salt
    ) external {
        require(ESCROW.isCommit(c), FaultsUnknownCommit(c.id));
        require(keccak256(ranges) == c.rangesHash, FaultsWrongRanges(c.rangesHash, keccak256(ranges)));
        _checkNeighbours(c, neighbours, count, salt);
        require(_isBroken(c, rangeAt(ranges, rangeIndex), neighbours, count), FaultsTilingCorrect());
        _punishCommit(Kind.Tiling, c);
    }

    /// @inheritdoc IFaults
    function proveAssignments(
        Assignment calldata a,
        bytes calldata signatureA,
        Assignment calldata b,
        bytes calldata signatureB,
        bytes32 salt
    ) external {
        bool sameCount = a.router == b.router && a.replica == b.replica && a.boot == b.boot && a.counter == b.counter;
        require(sameCount, FaultsNoContradiction());
        _checkPair(a.hash(), signatureA, b.hash(), signatureB, a.router, salt);

        bytes32 what = keccak256(abi.encode(a.router, a.replica, a.boot, a.counter));
        _punish(Kind.Assignments, _subject(Kind.Assignments, what), a.router, ROUTER, Offence.Conflict);
    }

    /// @inheritdoc IFaults
    function proveVerdicts(
        Verdict calldata a,
        bytes calldata signatureA,
        Verdict calldata b,
        bytes calldata signatureB,
        bytes32 salt
    ) external {
        bool sameRound = a.verifier == b.verifier && a.commitId == b.commitId && a.round == b.round
            && a.receiptDigest == b.receiptDigest;
        require(sameRound, FaultsNoContradiction());
        _checkPair(a.hash(), signatureA, b.hash(), signatureB, a.verifier, salt);

        bytes32 what = keccak256(abi.encode(a.verifier, a.commitId, a.round, a.receiptDigest));
        _punish(Kind.Verdicts, _subject(Kind.Verdicts, what), a.verifier, VERIFIER, Offence.Duty);
    }

    /// @dev A commit is punished once for all that is wrong with its tree.
    function _punishCommit(Kind kind, Commit calldata c) private {
        bytes32 subject = _subject(Kind.Tiling, bytes32(uint256(c.id)));
        _punish(kind, subject, c.owner, OPERATOR, Offence.Tiling);
    }

    /// @dev Two different statements that `signer` signed, claimed by the caller before.
    function _checkPair(
        bytes32 hashA,
        bytes calldata signatureA,
        bytes32 hashB,
        bytes calldata signatureB,
        address signer,
        bytes32 salt
    ) private view {
        require(hashA != hashB, FaultsNoContradiction());
        bytes32 digestA = _digest(hashA);
        bytes32 digestB = _digest(hashB);
        _checkClaim(keccak256(abi.encode(digestA, digestB)), salt);
        Signatures.check(digestA, signatureA, signer);
        Signatures.check(digestB, signatureB, signer);
    }

    function _checkReferences(
        JobReceipt calldata receipt,
        bytes calldata signature,
        Offer calldata offer,
        JobRequest calldata request,
        bytes32 salt
    ) private view returns (bytes32 digest, address owner) {
        digest = _digest(receipt.hash());
        _checkClaim(digest, salt);
        Signatures.check(digest, signature, receipt.node);
        bytes32 offerHash = _digest(offer.hash());
        require(offerHash == receipt.offerHash, FaultsNotReferenced(receipt.offerHash, offerHash));
        bytes32 jobId = _digest(request.hash());
        require(jobId == receipt.jobId, FaultsNotReferenced(receipt.jobId, jobId));
        owner = _ownerOfLive(receipt);
    }

    function _checkNeighbours(Commit calldata c, Leaf[] calldata neighbours, uint32 count, bytes32 salt) private view {
        uint32 left = neighbours.length > 0 ? neighbours[0].index : 0;
        uint32 right = neighbours.length > 1 ? neighbours[1].index : left;
        bool adjacent = neighbours.length == 2 && right == left + 1;
        bool atEdge = neighbours.length == 1 && (left == 0 || left == count - 1);
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
        _checkClaim(keccak256(abi.encode(c.id, digests[0], digests[1])), salt);
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
            neighbours[0].index == count - 1 && !TilingRules.covers(channel, range.before, range.upto, left, none);
        return first || last;
    }

    function _checkLeaf(Commit calldata c, Leaf calldata leaf, uint32 count) private view returns (bytes32 digest) {
        digest = _digest(leaf.receipt.hash());
        bytes32 node = Merkle.leaf(bytes.concat(digest, leaf.signature));
        bool under = Merkle.verify(c.receiptsRoot, node, leaf.index, count, count, leaf.proof);
        require(under, FaultsNotUnderRoot(c.receiptsRoot, leaf.index, count));
    }

    function _digest(bytes32 structHash) private view returns (bytes32) {
        return Signatures.digest(ESCROW.domainSeparator(), structHash);
    }

    function _subject(Kind kind, bytes32 what) private pure returns (bytes32) {
        return keccak256(abi.encode(kind, what));
    }
}
