// SPDX-License-Identifier: Apache-2.0
pragma solidity >=0.8.34 <0.9.0;

import {JobReceipt} from "../types/JobReceipt.sol";

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

/// @title Claims
/// @notice What every objective fault goes through: a claim, its proof, and the punishment.
/// @dev Claims go by commit-reveal against front-running: first `commitClaim(claimHash(claimant, evidence, salt))`,
/// in a later block the proof. `evidence` is given with each proof. A proof only records the fault, so that the race is
/// decided cheaply; anybody may then call `punish`, and the claimant is rewarded whoever does.
interface IClaims {
    /// @notice The objective faults, each punished once per subject.
    enum Kind {
        Conflict,
        BrokenChunk,
        Overbilling,
        Deviation,
        Miscount,
        EarlyLength,
        Leaf,
        Tiling,
        LateLeaf,
        Assignments,
        Verdicts,
        DoubleMoney
    }

    /// @notice What a deployment chooses once.
    /// @param challengerCap The most a claimant gets of one slash.
    /// @param signedCap The most that the signatures of one hot key alone can ever cost, refunds included.
    /// @param receiptLifeSeconds How long after it was finished a receipt outside any commit can be held against a node.
    /// @param lateSeconds How long after the deadline of its request a receipt may be committed without losing its fee.
    struct FaultParameters {
        uint96 challengerCap;
        uint96 signedCap;
        uint40 receiptLifeSeconds;
        uint40 lateSeconds;
    }

    /// @notice A proven fault.
    /// @param kind What was proven.
    /// @param owner Whose stake pays.
    /// @param key The hot key whose signatures alone prove it; zero where a commit or the owner's own key does.
    /// @param claimant Who is rewarded.
    /// @param subject What it can't be proven about again.
    /// @param receipt Digest of the receipt whose fee goes back, for a late leaf hashed with its commit's id; zero for
    /// none.
    /// @param payer Who gets it back.
    /// @param refund How much.
    struct Fault {
        Kind kind;
        address owner;
        address key;
        address claimant;
        bytes32 subject;
        bytes32 receipt;
        address payer;
        uint96 refund;
    }

    /// @notice A claim hash was stored.
    event ClaimCommitted(bytes32 indexed hash, address indexed sender);
    /// @notice A fault was proven; `punish` takes just this struct.
    event FaultProven(bytes32 indexed subject, Fault fault);
    /// @notice A proven fault was punished.
    event FaultPunished(bytes32 indexed subject, address indexed owner, uint96 slashed, uint96 refunded);

    /// @notice This claim hash was committed before.
    error FaultsClaimExists(bytes32 hash);
    /// @notice No claim was committed for this claimant, evidence and salt.
    error FaultsClaimUnknown(bytes32 hash);
    /// @notice The proof must come in a later block than its claim.
    error FaultsClaimTooFresh(uint256 claimBlock, uint256 currentBlock);
    /// @notice This was proven before.
    error FaultsAlreadyProven(bytes32 subject);
    /// @notice No such fault is proven and unpunished.
    error FaultsNotProven(bytes32 subject);
    /// @notice The given commit is not the one that Escrow stored under its id.
    error FaultsUnknownCommit(uint64 commitId);
    /// @notice The leaf is not under the commit's root.
    error FaultsNotUnderRoot(bytes32 root, uint32 index, uint32 count);
    /// @notice The offer or the request is not the one that the receipt names.
    error FaultsNotReferenced(bytes32 expected, bytes32 given);

    /// @notice Commits to a claim.
    /// @param hash `claimHash(claimant, evidence, salt)`.
    function commitClaim(bytes32 hash) external;

    /// @notice Slashes for a proven fault: payers are refunded, the claimant is rewarded, the rest is burned.
    /// @param fault What `FaultProven` said.
    /// @return slashed What was taken beyond refunds.
    /// @return refunded What went back to the payer.
    function punish(Fault calldata fault) external returns (uint96 slashed, uint96 refunded);

    /// @notice The hash that a claimant commits before a proof.
    function claimHash(address claimant, bytes32 evidence, bytes32 salt) external pure returns (bytes32);

    /// @notice Whether a subject was proven, punished or not: keccak(abi.encode(kind, what)).
    function isProven(bytes32 subject) external view returns (bool);

    /// @notice Whether a subject was punished.
    function isPunished(bytes32 subject) external view returns (bool);

    /// @notice What a hot key's signatures have cost so far.
    function takenBySignatures(address key) external view returns (uint96);

    /// @notice The parameters of this deployment.
    function faultParameters() external view returns (FaultParameters memory);
}
