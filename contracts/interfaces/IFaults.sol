// SPDX-License-Identifier: Apache-2.0
pragma solidity >=0.8.34 <0.9.0;

import {Assignment} from "../types/Assignment.sol";
import {Commit} from "../types/Commit.sol";
import {JobReceipt} from "../types/JobReceipt.sol";
import {JobRequest} from "../types/JobRequest.sol";
import {Offer} from "../types/Offer.sol";
import {Verdict} from "../types/Verdict.sol";

/// @notice A leaf of a commit's receipts tree: receiptDigest ‖ signature, at `index` of the tree.
/// @param receipt The receipt, whose digest starts the leaf.
/// @param signature The 64 bytes that follow it.
/// @param index Its place among the leaves.
/// @param proof Its siblings from the leaf up.
struct Leaf {
    JobReceipt receipt;
    bytes signature;
    uint32 index;
    bytes32[] proof;
}

/// @title Faults
/// @notice Punishes what signatures alone prove, on anybody's call and without a jury.
/// @dev Claims go by commit-reveal against front-running: first `commitClaim(claimHash(claimant, evidence, salt))`,
/// in a later block the proof. `evidence` is given with each proof. Signatures of a hot key alone, outside any commit,
/// cost at most `signedCap` a key; a leaf under a commit binds the owner wholly, whatever became of its key.
interface IFaults {
    /// @notice The objective faults, each punished once per subject.
    enum Kind {
        Conflict,
        Overbilling,
        Deviation,
        Leaf,
        Tiling,
        Assignments,
        Verdicts
    }

    /// @notice What a receipt shows about its money.
    enum Billing {
        Correct,
        FeeAboveOffer,
        PriceAboveMaximum,
        FeeAboveMaximum
    }

    /// @notice In what a receipt deviates from its request or offer.
    enum Deviation {
        None,
        Party,
        Model,
        Profile,
        Params,
        Seed,
        Choice,
        Output
    }

    /// @notice What a deployment chooses once.
    /// @param challengerCap The most a claimant gets of one slash.
    /// @param signedCap The most that the signatures of one hot key alone can ever cost, refunds included.
    /// @param receiptLifeSeconds How long after it was finished a receipt outside any commit can be held against a node.
    struct FaultParameters {
        uint96 challengerCap;
        uint96 signedCap;
        uint40 receiptLifeSeconds;
    }

    /// @notice A claim hash was stored.
    event ClaimCommitted(bytes32 indexed hash, address indexed sender);
    /// @notice A fault was proven; `subject` identifies what it cannot be proven about again.
    event FaultProven(
        Kind indexed kind, address indexed owner, bytes32 indexed subject, address claimant, uint96 slashed, uint96 refunded
    );

    /// @notice This claim hash was committed before.
    error FaultsClaimExists(bytes32 hash);
    /// @notice No claim was committed for this claimant, evidence and salt.
    error FaultsClaimUnknown(bytes32 hash);
    /// @notice The proof must come in a later block than its claim.
    error FaultsClaimTooFresh(uint256 claimBlock, uint256 currentBlock);
    /// @notice This was punished before.
    error FaultsAlreadyPunished(bytes32 subject);
    /// @notice Nobody owns this node.
    error FaultsUnknownNode(address node);
    /// @notice A receipt outside a commit is void: the node's key is revoked or the receipt too old.
    error FaultsReceiptVoid(address node, uint40 revokedAt, uint40 finishedAt);
    /// @notice The two statements do not contradict each other.
    error FaultsNoContradiction();
    /// @notice The offer or the request is not the one that the receipt names.
    error FaultsNotReferenced(bytes32 expected, bytes32 given);
    /// @notice The receipt bills what it may.
    error FaultsBillingCorrect(uint256 fee, uint256 allowed);
    /// @notice The receipt follows its request and offer.
    error FaultsNoDeviation(bytes32 receiptDigest);
    /// @notice The given commit is not the one that Escrow stored under its id.
    error FaultsUnknownCommit(uint64 commitId);
    /// @notice The packed ranges do not hash to the commit's.
    error FaultsWrongRanges(bytes32 expected, bytes32 given);
    /// @notice The leaf is signed by the commit's node.
    error FaultsLeafSigned(bytes32 receiptDigest);
    /// @notice The leaf is a proper one.
    error FaultsLeafProper(bytes32 receiptDigest);
    /// @notice The leaf is not under the commit's root.
    error FaultsNotUnderRoot(bytes32 root, uint32 index, uint32 count);
    /// @notice The leaves given are not neighbours.
    error FaultsNotNeighbours(uint32 left, uint32 right, uint32 count);
    /// @notice The neighbours are in order and cover the range between them.
    error FaultsTilingCorrect();

    /// @notice Commits to a claim.
    /// @param hash `claimHash(claimant, evidence, salt)`.
    function commitClaim(bytes32 hash) external;

    /// @notice Two receipts of one node for the same output of a job. Evidence: keccak(abi.encode(digest a, digest b)).
    function proveConflict(
        JobReceipt calldata a,
        bytes calldata signatureA,
        JobReceipt calldata b,
        bytes calldata signatureB,
        bytes32 salt
    ) external;

    /// @notice A receipt that bills more than its offer or its request allows; its fee is refunded if it was collected
    /// and the cap has room for it.
    /// Evidence: the receipt's digest.
    /// @dev Offer and request are bound by the hashes in the signed receipt. No signature of theirs is asked: a node
    /// that never signed its offer would escape by it.
    function proveOverbilling(
        JobReceipt calldata receipt,
        bytes calldata signature,
        Offer calldata offer,
        JobRequest calldata request,
        bytes32 salt
    ) external;

    /// @notice A receipt whose parties, model, profile, params, seed, choice or length are not its request's or offer's.
    /// Evidence: the receipt's digest.
    function proveDeviation(
        JobReceipt calldata receipt,
        bytes calldata signature,
        Offer calldata offer,
        JobRequest calldata request,
        bytes32 salt
    ) external;

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

    /// @notice A leaf under a commit whose receipt is another node's or moves no money. Evidence: the receipt's digest.
    function proveImproperLeaf(Commit calldata c, Leaf calldata leaf, uint32 count, bytes32 salt) external;

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

    /// @notice Two assignments of one router with the same (replica, boot, counter). Evidence: keccak(abi.encode(digests)).
    function proveAssignments(
        Assignment calldata a,
        bytes calldata signatureA,
        Assignment calldata b,
        bytes calldata signatureB,
        bytes32 salt
    ) external;

    /// @notice Two verdicts of one verifier on one receipt and round. Evidence: keccak(abi.encode(digests)).
    function proveVerdicts(
        Verdict calldata a,
        bytes calldata signatureA,
        Verdict calldata b,
        bytes calldata signatureB,
        bytes32 salt
    ) external;

    /// @notice The hash that a claimant commits before a proof.
    function claimHash(address claimant, bytes32 evidence, bytes32 salt) external pure returns (bytes32);

    /// @notice Whether a subject was punished: keccak(abi.encode(kind, what)), with `what` the evidence of a receipt's
    /// fault, the commit id of a leaf's or tiling fault, and keccak(abi.encode(…)) of what two statements agree in.
    function isPunished(bytes32 subject) external view returns (bool);

    /// @notice What a hot key's signatures have cost so far.
    function takenBySignatures(address key) external view returns (uint96);

    /// @notice The parameters of this deployment.
    function faultParameters() external view returns (FaultParameters memory);
}
