// SPDX-License-Identifier: Apache-2.0
pragma solidity >=0.8.34 <0.9.0;

import {Leaf} from "./IClaims.sol";
import {OutputLeaf} from "./IFaults.sol";
import {Commit} from "../types/Commit.sol";

/// @title Traps
/// @notice Catches verifiers that say match without looking: jobs whose answer no model gave.
/// @dev A planter hashes a secret beforehand and lets a node serve a job with 32 tokens that follow from the secret
/// alone. That no model gave them is no proof by itself, since whoever knows the secret could ask a model to say them.
/// So a trap counts only where the request had no room for that: it continues nothing, its prompt has at most 16 ids and
/// its params bias none. 16 ids of any vocabulary in use choose among fewer than 2^288 texts, 32 planted ones among 2^320 at
/// least; a model that repeats its whole prompt exactly is still 16 ids short. What is left is luck, of which the seed of
/// the job gives as much as somebody can compute beforehand, and a listed model that was made to say them.
/// The count of prompt ids and the params are what the receipt says: a verifier that looks calls a receipt whose counts
/// are not its trees', or whose params are not those of R-30 in canonical form, no match. The planter pays its job and its
/// audit like any other, and its node bears the evidence against it: that is what a trap costs.
interface ITraps {
    /// @notice Where to find what contradicts a verdict.
    /// @param leaf The receipt of the planted job, with its path.
    /// @param count The number of leaves of the commit's tree.
    /// @param rangeIndex The range of the drawn point.
    /// @param k The drawn point, which the receipt covers.
    /// @param outputIndex The leaf of the output tree that follows from the secret.
    /// @param output That leaf.
    /// @param verdicts What the commit's verifier revealed.
    /// @param salt The salt of that.
    /// @param secret What the trap was hashed with.
    /// @param tokens How many ids the secret chooses from.
    /// @param params The canonical JSON of the request's params, whose hash the receipt holds.
    /// @param biasOffset Where in it `,"logitBias":{},` stands.
    struct Sprung {
        Leaf leaf;
        uint32 count;
        uint256 rangeIndex;
        uint256 k;
        uint256 outputIndex;
        OutputLeaf output;
        bytes verdicts;
        bytes32 salt;
        bytes32 secret;
        uint32 tokens;
        bytes params;
        uint256 biasOffset;
    }

    /// @notice A trap was hashed.
    event TrapPlanted(bytes32 indexed hash, address indexed planter);
    /// @notice A verifier said match of what no model gave.
    event TrapSprung(bytes32 indexed hash, address indexed verifier, uint64 indexed commitId, uint96 slashed);

    /// @notice This trap was planted before.
    error TrapsAlreadyPlanted(bytes32 hash);
    /// @notice The trap was not planted before the commit, or by another.
    error TrapsNotPlanted(bytes32 hash, uint40 plantedAt, uint40 commitTime);
    /// @notice The verifier was caught on this commit before.
    error TrapsAlreadySprung(uint64 commitId);
    /// @notice No verdicts were revealed for the commit, or not these.
    error TrapsNoSuchVerdicts(uint64 commitId);
    /// @notice The receipt is not under the commit, or does not cover the drawn point.
    error TrapsWrongReceipt(bytes32 receiptDigest);
    /// @notice The output leaf is not under the receipt's root, or not 32 tokens that follow from the secret.
    error TrapsNoTrap(bytes32 receiptDigest);
    /// @notice Whoever asked could have dictated the output: by a prefix, a prompt of more than 16 ids, or biased ids.
    error TrapsDictated(bytes32 receiptDigest);
    /// @notice The verifier did not say match.
    error TrapsVerdictRight(uint8 verdict);

    /// @notice Hashes a trap.
    /// @param hash keccak(abi.encode(planter, secret)).
    function plantTrap(bytes32 hash) external;

    /// @notice Slashes the verifier whose revealed verdict of a planted job is match, and rewards the planter.
    /// @dev Token i of the leaf must be `uint32(keccak(abi.encode(secret, i))) % tokens`; with at least 2^10 possible
    /// ids no model gives 32 such tokens by chance.
    /// @param c The commit.
    /// @param ranges Its packed ranges.
    /// @param sprung Where the planted job stands, and what was said of it.
    function springTrap(Commit calldata c, bytes calldata ranges, Sprung calldata sprung)
        external
        returns (uint96 slashed);

    /// @notice When a trap was planted; zero for never.
    function plantedAt(bytes32 hash) external view returns (uint40);
}
