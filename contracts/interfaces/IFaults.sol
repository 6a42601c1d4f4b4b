// SPDX-License-Identifier: Apache-2.0
pragma solidity >=0.8.34 <0.9.0;

import {IClaims, Leaf} from "./IClaims.sol";
import {Assignment} from "../types/Assignment.sol";
import {Chunk} from "../types/Chunk.sol";
import {Commit} from "../types/Commit.sol";
import {JobReceipt} from "../types/JobReceipt.sol";
import {JobRequest} from "../types/JobRequest.sol";
import {Offer} from "../types/Offer.sol";
import {Verdict} from "../types/Verdict.sol";

/// @notice A leaf of an output tree: u32(position of its first token) ‖ u32(id)… ‖ u16(q)….
/// @param data The leaf's data.
/// @param proof Its siblings from the leaf up.
struct OutputLeaf {
    bytes data;
    bytes32[] proof;
}

/// @notice An EIP-2098 signature.
struct Signed {
    bytes32 r;
    bytes32 vs;
}

/// @title Faults
/// @notice Punishes what signatures alone prove, on anybody's call and without a jury: faults of receipts and
/// contradicting statements of routers and verifiers.
/// @dev Signatures of a hot key alone cost at most `signedCap` a key, and nothing once the receipt is old or the key
/// revoked. A receipt that was shown to stand under a commit (`bindLeaf`) binds the owner wholly, whatever became of
/// its key; it can then be punished once more than by its signature alone. `bound` says which of the two is proven.
/// Two receipts for the same money bind wholly once one of them does.
interface IFaults is IClaims {
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

    /// @notice The trees whose roots a receipt states with a count of its own.
    enum Tree {
        Prompt,
        Prefix,
        Output
    }

    /// @notice A receipt was shown to stand under a commit.
    event LeafBound(bytes32 indexed receiptDigest, address indexed owner, uint64 commitId);

    /// @notice Nobody owns this node.
    error FaultsUnknownNode(address node);
    /// @notice A receipt outside a commit is void: the node's key is revoked or the receipt too old.
    error FaultsReceiptVoid(address node, bool isRevoked, uint40 finishedAt);
    /// @notice The two statements do not contradict each other.
    error FaultsNoContradiction();
    /// @notice The leaf of an output tree is not under its root.
    error FaultsNotInOutput(bytes32 root, uint256 index);
    /// @notice The receipt bills what it may.
    error FaultsBillingCorrect(uint256 fee, uint256 allowed);
    /// @notice The receipt follows its request and offer.
    error FaultsNoDeviation(bytes32 receiptDigest);
    /// @notice The receipt's count is its tree's, or the given count and top are not the root's.
    error FaultsCountsMatch(bytes32 root, uint32 count);
    /// @notice The receipt does not say `length`, or what it may have was used up.
    error FaultsLengthReached(uint8 finishReason, uint256 outputTo, uint256 limit);
    /// @notice The preimage of the params does not hash to the receipt's, or says no `maxTokens` at that place.
    error FaultsWrongParams(bytes32 expected, bytes32 given);
    /// @notice Nobody showed that the receipt stands under a commit.
    error FaultsNotBound(bytes32 receiptDigest);
    /// @notice The commit of the leaf is too old for a receipt outside any commit to contradict it.
    error FaultsCommitTooOld(bytes32 receiptDigest, uint256 until);
    /// @notice The receipt under the commit is another node's.
    error FaultsForeignLeaf(address expected, address given);

    /// @notice Shows that a receipt stands under a commit of its node, so that faults of it bind the owner wholly.
    /// @param c The commit.
    /// @param leaf The receipt, with its path.
    /// @param count The number of leaves.
    function bindLeaf(Commit calldata c, Leaf calldata leaf, uint32 count) external;

    /// @notice Two receipts of one node for the same output of a job. Evidence: keccak(abi.encode(digest a, digest b)).
    function proveConflict(
        JobReceipt calldata a,
        Signed calldata signatureA,
        JobReceipt calldata b,
        Signed calldata signatureB,
        bool bound,
        bytes32 salt
    ) external;

    /// @notice Two receipts of one node for the same money of a channel. Evidence: keccak(abi.encode(digest a, digest b)).
    /// @param bound Whether `a` was shown to stand under a commit: it then binds the owner wholly, whatever became of the
    /// key; unless `b` stands under a commit too, within a receipt's life of the commit.
    function proveDoubleMoney(
        JobReceipt calldata a,
        Signed calldata signatureA,
        JobReceipt calldata b,
        Signed calldata signatureB,
        bool bound,
        bytes32 salt
    ) external;

    /// @notice A receipt whose output is not the one of a chunk of the same segment. Evidence:
    /// keccak(abi.encode(chunk digest, receipt digest)). A receipt may end before or after the chunk: what both hold
    /// must be the same. Outputs of equal length are compared by their roots and take no leaves.
    /// @param chunk The chunk.
    /// @param index Which leaf of 32 tokens is compared.
    /// @param inChunk That leaf of the chunk's tree.
    /// @param inReceipt That leaf of the receipt's tree.
    function proveBrokenChunk(
        Chunk calldata chunk,
        Signed calldata chunkSignature,
        JobReceipt calldata receipt,
        Signed calldata signature,
        uint256 index,
        OutputLeaf calldata inChunk,
        OutputLeaf calldata inReceipt,
        bytes32 salt
    ) external;

    /// @notice A receipt that bills more than its offer or its request allows; its fee is refunded if it was collected
    /// and the cap has room for it.
    /// Evidence: the receipt's digest.
    /// @dev Offer and request are bound by the hashes in the signed receipt. No signature of theirs is asked: a node
    /// that never signed its offer would escape by it.
    function proveOverbilling(
        JobReceipt calldata receipt,
        Signed calldata signature,
        Offer calldata offer,
        JobRequest calldata request,
        bool bound,
        bytes32 salt
    ) external;

    /// @notice A receipt whose parties, model, profile, params, seed, choice or output are not its request's or offer's.
    /// Evidence: the receipt's digest.
    function proveDeviation(
        JobReceipt calldata receipt,
        Signed calldata signature,
        Offer calldata offer,
        JobRequest calldata request,
        bool bound,
        bytes32 salt
    ) external;

    /// @notice A receipt one of whose counts is not its tree's: promptTokens, outputFrom of the prefix, or outputTo -
    /// outputFrom. Evidence: the receipt's digest.
    /// @param tree Which tree.
    /// @param count The count inside its root.
    /// @param top The tree's last node: keccak(0x02 ‖ u32(count) ‖ top) is the root.
    function proveMiscount(
        JobReceipt calldata receipt,
        Signed calldata signature,
        Tree tree,
        uint32 count,
        bytes32 top,
        bool bound,
        bytes32 salt
    ) external;

    /// @notice A receipt that ended as `length` although the request, its params and the context all had room.
    /// Evidence: the receipt's digest.
    /// @param params Preimage of the params hash: the canonical JSON.
    /// @param offset Where `"maxTokens":` begins in it.
    function proveEarlyLength(
        JobReceipt calldata receipt,
        Signed calldata signature,
        Offer calldata offer,
        JobRequest calldata request,
        bytes calldata params,
        uint256 offset,
        bool bound,
        bytes32 salt
    ) external;

    /// @notice Two assignments of one router with the same (replica, boot, counter). Evidence: keccak(abi.encode(digests)).
    function proveAssignments(
        Assignment calldata a,
        Signed calldata signatureA,
        Assignment calldata b,
        Signed calldata signatureB,
        bytes32 salt
    ) external;

    /// @notice Two verdicts of one verifier on one receipt and round. Evidence: keccak(abi.encode(digests)).
    function proveVerdicts(
        Verdict calldata a,
        Signed calldata signatureA,
        Verdict calldata b,
        Signed calldata signatureB,
        bytes32 salt
    ) external;

    /// @notice The owner that a receipt binds because it stands under a commit; zero if nobody showed that.
    function boundOwner(bytes32 receiptDigest) external view returns (address);
}
