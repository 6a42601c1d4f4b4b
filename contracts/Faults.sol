// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

import {Hashes} from "@openzeppelin/contracts/utils/cryptography/Hashes.sol";

import {Answerable} from "./base/Answerable.sol";
import {IEscrow} from "./interfaces/IEscrow.sol";
import {IFaults, OutputLeaf, Signed} from "./interfaces/IFaults.sol";
import {IRegistry} from "./interfaces/IRegistry.sol";
import {IStaking} from "./interfaces/IStaking.sol";
import {Billing as BillingRules} from "./libraries/Billing.sol";
import {Merkle} from "./libraries/Merkle.sol";
import {Outputs} from "./libraries/Outputs.sol";
import {Signatures} from "./libraries/Signatures.sol";
import {Assignment} from "./types/Assignment.sol";
import {Chunk} from "./types/Chunk.sol";
import {JobReceipt} from "./types/JobReceipt.sol";
import {JobRequest} from "./types/JobRequest.sol";
import {Offer} from "./types/Offer.sol";
import {Verdict} from "./types/Verdict.sol";

/// @notice See IFaults.
contract Faults is Answerable {
    constructor(IEscrow escrow, IStaking staking, IRegistry registry, FaultParameters memory chosen)
        Answerable(escrow, staking, registry, chosen)
    {}

    /// @inheritdoc IFaults
    function proveConflict(
        JobReceipt calldata a,
        Signed calldata signatureA,
        JobReceipt calldata b,
        Signed calldata signatureB,
        bool bound,
        bytes32 salt
    ) external {
        _checkOverlap(a, b);
        bytes32 domain = _domain();
        bytes32 digestA = a.digestIn(domain);
        bytes32 digestB = b.digestIn(domain);
        _claimPair(digestA, digestB, salt);
        _checkSigned(digestA, signatureA, a.node);
        _checkSigned(digestB, signatureB, a.node);
        if (bound) _requireBound(digestB);
        Fault memory fault = _answerable(Kind.Conflict, a, digestA, bound, b.finishedAt);
        _prove(fault, _subjectOf(fault, _workOf(a)));
    }

    /// @inheritdoc IFaults
    function proveDoubleMoney(
        JobReceipt calldata a,
        Signed calldata signatureA,
        JobReceipt calldata b,
        Signed calldata signatureB,
        bool bound,
        bytes32 salt
    ) external {
        require(_takeSameMoney(a, b), FaultsNoContradiction());
        bytes32 digestA = a.digestIn(_domain());
        bytes32 digestB = b.digestIn(_domain());
        _checkPair(digestA, signatureA, digestB, signatureB, a.node, salt);
        Fault memory fault = _answerable(Kind.DoubleMoney, a, digestA, bound, b.finishedAt);
        // What no commit holds is the payer's alone: neither a revoked key nor a false date must void it.
        if (bound) _requireRecent(digestA, digestB);
        _prove(fault, _subjectOf(fault, Hashes.commutativeKeccak256(digestA, digestB)));
    }

    /// @inheritdoc IFaults
    function proveBrokenChunk(
        Chunk calldata chunk,
        Signed calldata chunkSignature,
        JobReceipt calldata receipt,
        Signed calldata signature,
        uint256 index,
        OutputLeaf calldata inChunk,
        OutputLeaf calldata inReceipt,
        bytes32 salt
    ) external {
        bool sameSegment = chunk.node == receipt.node && chunk.jobId == receipt.jobId && chunk.choice == receipt.choice
            && chunk.outputFrom == receipt.outputFrom;
        require(sameSegment, FaultsNoContradiction());
        _checkPair(_digest(chunk.hash()), chunkSignature, receipt.digestIn(_domain()), signature, receipt.node, salt);
        require(Outputs.differ(chunk, receipt, index, inChunk, inReceipt), FaultsNoContradiction());

        Fault memory fault = _answerable(Kind.BrokenChunk, receipt, 0, false, receipt.finishedAt);
        bytes32 what = keccak256(abi.encode(receipt.node, receipt.jobId, receipt.choice, receipt.outputFrom));
        _prove(fault, _subjectOf(fault, what));
    }

    /// @inheritdoc IFaults
    function proveOverbilling(
        JobReceipt calldata receipt,
        Signed calldata signature,
        Offer calldata offer,
        JobRequest calldata request,
        bool bound,
        bytes32 salt
    ) external {
        bytes32 digest = _checkReceipt(receipt, signature, salt);
        _checkReferences(receipt, offer, request);
        (Billing wrong, uint256 billed, uint256 allowed) = BillingRules.check(receipt, offer, request);
        require(wrong != Billing.Correct, FaultsBillingCorrect(billed, allowed));
        _proveReceipt(Kind.Overbilling, receipt, digest, bound);
    }

    /// @inheritdoc IFaults
    function proveDeviation(
        JobReceipt calldata receipt,
        Signed calldata signature,
        Offer calldata offer,
        JobRequest calldata request,
        bool bound,
        bytes32 salt
    ) external {
        bytes32 digest = _checkReceipt(receipt, signature, salt);
        _checkReferences(receipt, offer, request);
        Deviation found = BillingRules.deviation(receipt, offer, request);
        require(found != Deviation.None, FaultsNoDeviation(digest));
        _proveReceipt(Kind.Deviation, receipt, digest, bound);
    }

    /// @inheritdoc IFaults
    function proveMiscount(
        JobReceipt calldata receipt,
        Signed calldata signature,
        Tree tree,
        uint32 count,
        bytes32 top,
        bool bound,
        bytes32 salt
    ) external {
        bytes32 digest = _checkReceipt(receipt, signature, salt);
        (bytes32 root, uint256 stated) = Outputs.statedOf(receipt, tree);
        require(count != stated && Merkle.seal(count, top) == root, FaultsCountsMatch(root, count));
        _proveReceipt(Kind.Miscount, receipt, digest, bound);
    }

    /// @inheritdoc IFaults
    function proveEarlyLength(
        JobReceipt calldata receipt,
        Signed calldata signature,
        Offer calldata offer,
        JobRequest calldata request,
        bytes calldata params,
        uint256 offset,
        bool bound,
        bytes32 salt
    ) external {
        bytes32 digest = _checkReceipt(receipt, signature, salt);
        _checkReferences(receipt, offer, request);
        uint256 limit = BillingRules.answerLimit(receipt, offer, request, _maxTokens(receipt, params, offset));
        bool early = receipt.finishReason == BillingRules.LENGTH && receipt.outputTo < limit;
        require(early, FaultsLengthReached(receipt.finishReason, receipt.outputTo, limit));
        _proveReceipt(Kind.EarlyLength, receipt, digest, bound);
    }

    /// @inheritdoc IFaults
    function proveAssignments(
        Assignment calldata a,
        Signed calldata signatureA,
        Assignment calldata b,
        Signed calldata signatureB,
        bytes32 salt
    ) external {
        bool sameCount = a.router == b.router && a.replica == b.replica && a.boot == b.boot && a.counter == b.counter;
        require(sameCount, FaultsNoContradiction());
        _checkPair(_digest(a.hash()), signatureA, _digest(b.hash()), signatureB, a.router, salt);

        Fault memory fault;
        fault.kind = Kind.Assignments;
        fault.owner = a.router;
        _prove(fault, _subject(Kind.Assignments, keccak256(abi.encode(a.router, a.replica, a.boot, a.counter))));
    }

    /// @inheritdoc IFaults
    function proveVerdicts(
        Verdict calldata a,
        Signed calldata signatureA,
        Verdict calldata b,
        Signed calldata signatureB,
        bytes32 salt
    ) external {
        bool sameRound = a.verifier == b.verifier && a.commitId == b.commitId && a.round == b.round
            && a.receiptDigest == b.receiptDigest;
        require(sameRound, FaultsNoContradiction());
        _checkPair(_digest(a.hash()), signatureA, _digest(b.hash()), signatureB, a.verifier, salt);

        Fault memory fault;
        fault.kind = Kind.Verdicts;
        fault.owner = a.verifier;
        bytes32 what = keccak256(abi.encode(a.verifier, a.commitId, a.round, a.receiptDigest));
        _prove(fault, _subject(Kind.Verdicts, what));
    }

    function _checkOverlap(JobReceipt calldata a, JobReceipt calldata b) private pure {
        bool sameWork = a.node == b.node && a.jobId == b.jobId && a.choice == b.choice;
        bool overlap = a.outputFrom < b.outputTo && b.outputFrom < a.outputTo;
        require(sameWork && overlap, FaultsNoContradiction());
    }

    /// @dev Whether two receipts of one channel bill some of the same money; one without a fee bills none.
    function _takeSameMoney(JobReceipt calldata a, JobReceipt calldata b) private pure returns (bool) {
        bool sameChannel = a.node == b.node && a.payer == b.payer && a.signer == b.signer && a.lane == b.lane;
        uint96 from = a.cumFrom > b.cumFrom ? a.cumFrom : b.cumFrom;
        return sameChannel && from < a.cumTo && from < b.cumTo;
    }

    function _workOf(JobReceipt calldata receipt) private pure returns (bytes32) {
        return keccak256(abi.encode(receipt.node, receipt.jobId, receipt.choice));
    }

    /// @dev Records a fault of one receipt, whose fee goes back if it was collected.
    function _proveReceipt(Kind kind, JobReceipt calldata receipt, bytes32 digest, bool bound) private {
        Fault memory fault = _answerable(kind, receipt, digest, bound, receipt.finishedAt);
        uint96 collected = ESCROW.channel(receipt.payer, receipt.signer, receipt.node, receipt.lane);
        if (receipt.cumTo > receipt.cumFrom && collected >= receipt.cumTo) {
            fault.receipt = digest;
            fault.payer = receipt.payer;
            fault.refund = receipt.cumTo - receipt.cumFrom;
        }
        _prove(fault, _subjectOf(fault, digest));
    }

    function _checkReceipt(JobReceipt calldata receipt, Signed calldata signature, bytes32 salt)
        private
        returns (bytes32 digest)
    {
        digest = receipt.digestIn(_domain());
        _useClaim(digest, salt);
        _checkSigned(digest, signature, receipt.node);
    }

    /// @dev Two different statements that `signer` signed, claimed by the caller before.
    function _checkPair(
        bytes32 digestA,
        Signed calldata signatureA,
        bytes32 digestB,
        Signed calldata signatureB,
        address signer,
        bytes32 salt
    ) private {
        _claimPair(digestA, digestB, salt);
        _checkSigned(digestA, signatureA, signer);
        _checkSigned(digestB, signatureB, signer);
    }

    function _checkSigned(bytes32 digest, Signed calldata signature, address signer) private pure {
        Signatures.check(digest, signature.r, signature.vs, signer);
    }

    function _claimPair(bytes32 digestA, bytes32 digestB, bytes32 salt) private {
        require(digestA != digestB, FaultsNoContradiction());
        _useClaim(Hashes.efficientKeccak256(digestA, digestB), salt);
    }

    function _checkReferences(JobReceipt calldata receipt, Offer calldata offer, JobRequest calldata request)
        private
        view
    {
        bytes32 offerHash = _digest(offer.hash());
        require(offerHash == receipt.offerHash, FaultsNotReferenced(receipt.offerHash, offerHash));
        _checkRequest(receipt, request);
    }

    function _maxTokens(JobReceipt calldata receipt, bytes calldata params, uint256 offset) private pure returns (uint256) {
        bytes32 paramsHash = keccak256(params);
        (bool found, uint256 maxTokens) = Outputs.maxTokensAt(params, offset);
        require(found && paramsHash == receipt.paramsHash, FaultsWrongParams(receipt.paramsHash, paramsHash));
        return maxTokens;
    }
}
