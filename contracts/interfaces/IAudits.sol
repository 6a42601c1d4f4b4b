// SPDX-License-Identifier: Apache-2.0
pragma solidity >=0.8.34 <0.9.0;

import {ITraps} from "./ITraps.sol";
import {Commit} from "../types/Commit.sol";

/// @title Audits
/// @notice Fixes the random seed of every commit and pays verifiers for auditing all its drawn points.
/// @dev A verifier is an owner bonded in Staking under role 3 for `ageSeconds` before the commit. One of them is drawn by
/// the commit's own seed, by stake and how long it had been bonded, and has the duty alone for `dutySeconds`; afterwards
/// any such verifier may take it over. Each has a lot of its own under a seed, which what others stake does not move; its
/// own weight never rises by what is bonded after the commit. Who is paid is who reveals. A drawn verifier whose duty another had to do pays what Staking's table asks for a missed duty, and so
/// does whoever committed and did not reveal in time, once another commitment takes its place.
interface IAudits is ITraps {
    /// @notice What a deployment chooses once.
    /// @param tipPpm Tip for fixing a seed, in 1e-6 of the price of one audit point of that commit.
    /// @param dutySeconds How long the drawn verifier alone may commit, from the fixing of the seed.
    /// @param revealSeconds How long a committed verifier has to reveal before another may replace it.
    /// @param ageSeconds How long before a commit a verifier must have been bonded to audit it.
    struct Parameters {
        uint32 tipPpm;
        uint40 dutySeconds;
        uint40 revealSeconds;
        uint40 ageSeconds;
    }

    /// @notice The duty of one commit.
    /// @param drawn The verifier drawn by the seed; zero when none was old enough at the commit, or it was punished.
    /// @param dutyEnd From when on any bonded verifier may take over.
    /// @param commitTime When the node collected.
    /// @param committed The verifier whose commitment stands; zero when none.
    /// @param committedAt When that commitment was made.
    /// @param committedBlock In which block it was made.
    /// @param paid Whether the audit of this commit has been paid.
    /// @param hash The commitment.
    struct Duty {
        address drawn;
        uint40 dutyEnd;
        uint40 commitTime;
        address committed;
        uint40 committedAt;
        uint48 committedBlock;
        bool paid;
        bytes32 hash;
    }

    /// @notice The seed of a commit is known from now on.
    event SeedFixed(uint64 indexed commitId, bytes32 seed, uint64 blockNumber);
    /// @notice `verifier` has the duty of a commit alone until `dutyEnd`.
    event DutyDrawn(uint64 indexed commitId, address indexed verifier, uint40 dutyEnd);
    /// @notice A verifier has bound itself to verdicts that it has not shown yet.
    event VerdictsCommitted(uint64 indexed commitId, address indexed verifier, bytes32 hash);
    /// @notice A verifier has shown its verdicts: 9 bytes each, verdict uint8 then logE int64, by (range, k).
    event VerdictsRevealed(uint64 indexed commitId, address indexed verifier, bytes verdicts);
    /// @notice A verifier did not do its duty.
    event DutyMissed(uint64 indexed commitId, address indexed verifier, uint96 slashed);
    /// @notice What the audit pool could not pay yet is owed.
    event PayOwed(address indexed verifier, uint256 amount);

    /// @notice The given commit is not the one that Escrow stored under its id.
    error AuditsUnknownCommit(uint64 commitId);
    /// @notice The seed of this commit is fixed already.
    error AuditsSeedAlreadyFixed(uint64 commitId);
    /// @notice The block that seeds the commit has not been mined, or its hash cannot be read yet.
    error AuditsSeedNotReady(uint256 seedBlock, uint256 currentBlock);
    /// @notice The seed of this commit has not been fixed.
    error AuditsSeedNotFixed(uint64 commitId);
    /// @notice Only a verifier bonded long enough before the commit may audit it.
    error AuditsNotBonded(address verifier, uint40 bondedSince, uint40 commitTime);
    /// @notice Nobody audits itself, nor a declared sibling.
    error AuditsParty(address verifier, address owner);
    /// @notice Until `dutyEnd` only the drawn verifier may commit.
    error AuditsNotYourDuty(address drawn, uint40 dutyEnd);
    /// @notice Another verifier's commitment stands until `until`.
    error AuditsCommitmentStands(address verifier, uint40 until);
    /// @notice This commit's audit has been paid.
    error AuditsAlreadyPaid(uint64 commitId);
    /// @notice No commitment of this verifier stands for the commit.
    error AuditsNothingCommitted(uint64 commitId, address verifier);
    /// @notice Commit and reveal must lie in different blocks.
    error AuditsRevealTooEarly(uint256 committedBlock);
    /// @notice The revealed verdicts and salt do not hash to the commitment.
    error AuditsRevealMismatch(bytes32 committed, bytes32 revealed);
    /// @notice The packed ranges do not hash to the commit's.
    error AuditsWrongRanges(bytes32 expected, bytes32 given);
    /// @notice Verdicts must cover every drawn point, 9 bytes each.
    error AuditsWrongVerdictCount(uint256 expectedBytes, uint256 givenBytes);
    /// @notice A verdict must be 1 (match), 2 (mismatch) or 3 (inconclusive).
    error AuditsInvalidVerdict(uint256 index, uint8 verdict);
    /// @notice Nothing is owed, or the pool is empty.
    error AuditsNothingOwed(uint256 owed, uint256 pool);

    /// @notice Fixes the seed of a commit from its seed block, for a tip from the audit pool.
    /// @param c The commit, as emitted by Escrow.
    /// @return seed The seed, which draws the audit points and the verifier on duty.
    function fixSeed(Commit calldata c) external returns (bytes32 seed);

    /// @notice Binds the caller to verdicts on all drawn points of a commit.
    /// @param commitId The commit.
    /// @param hash keccak(abi.encode(commitId, verifier, keccak(verdicts), salt)).
    function commitVerdicts(uint64 commitId, bytes32 hash) external;

    /// @notice Shows the verdicts and is paid for each drawn point, whatever the verdict.
    /// @param c The commit.
    /// @param ranges Its packed ranges, as emitted by Escrow.
    /// @param verdicts 9 bytes for each drawn point in (range, k) order: verdict uint8, logE int64.
    /// @param salt The salt of the commitment.
    /// @return pay What was earned, with what the pool could not pay yet.
    function revealVerdicts(Commit calldata c, bytes calldata ranges, bytes calldata verdicts, bytes32 salt)
        external
        returns (uint256 pay);

    /// @notice Pays the caller what the pool could not pay when it was earned.
    /// @return amount What was paid.
    function collectOwed() external returns (uint256 amount);

    /// @notice The seed of a commit; zero while nobody fixed it.
    function seedOf(uint64 commitId) external view returns (bytes32);

    /// @notice The duty of a commit.
    function dutyOf(uint64 commitId) external view returns (Duty memory);

    /// @notice What a verifier has earned and not been paid.
    function owedTo(address verifier) external view returns (uint256);

    /// @notice The block whose hash seeds the commit as of now, by the roll-over rule (R-25).
    function currentSeedBlock(uint64 seedBlock) external view returns (uint256);

    /// @notice How many points of a commit are drawn.
    function countDrawn(Commit calldata c, bytes calldata ranges) external view returns (uint256);

    /// @notice The parameters of this deployment.
    function parameters() external view returns (Parameters memory);
}
