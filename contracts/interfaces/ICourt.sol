// SPDX-License-Identifier: Apache-2.0
pragma solidity >=0.8.34 <0.9.0;

import {Shown} from "../types/Shown.sol";

/// @title Court
/// @notice Judges what needs re-execution: a case of drawn audit points against an owner, by a jury of operators of the
/// same model and profile, drawn by stake, which commits and reveals verdicts; a mismatch slashes the owner and pays the
/// payers back. A payer may also pay for the re-execution of one job of its own.
/// @dev What the shown entries say is for the jurors to check against receipts and chain: a case with a wrong entry
/// does not deserve a mismatch. Staking's table says what a mismatch costs and bounds the shares of challenger and
/// jurors. All payments are credits to be withdrawn.
interface ICourt {
    /// @notice Where a case stands.
    enum Status {
        None,
        Drawing, // waits for its seed block, then for `draw`
        Voting, // jurors commit, then reveal, then `decide`
        Decided, // may be appealed until `appealEnd`, then `execute`
        Closed
    }

    /// @notice What a deployment chooses once.
    /// @param jurySize Jurors of the first round; a larger one has 2n+1.
    /// @param seedDelay Blocks between opening a round and the block that draws its jury.
    /// @param commitSeconds Length of the commit phase, from the draw.
    /// @param revealSeconds Length of the reveal phase, which `closeCommits` may begin early.
    /// @param appealSeconds How long a decision may be appealed.
    /// @param jurorAgeSeconds How long before the opening a juror must have been enlisted and bonded.
    /// @param caseFee Pays the jurors; returned on mismatch and where a jury was silent, the accused's where none sat.
    /// @param caseBond Returned on mismatch and inconclusive, lost on match.
    /// @param tip Paid to whoever moves a case on, at most `MAX_TIPS` times; what is not used returns.
    /// @param duty What a juror loses that does not reveal; a quarter of it is lost by one that votes against the verdict.
    /// @param challengerCap The most a challenger gets of one slash.
    /// @param jurorCap The most one juror gets of one slash.
    struct Parameters {
        uint16 jurySize;
        uint16 seedDelay;
        uint40 commitSeconds;
        uint40 revealSeconds;
        uint40 appealSeconds;
        uint40 jurorAgeSeconds;
        uint96 caseFee;
        uint96 caseBond;
        uint96 tip;
        uint96 duty;
        uint96 challengerCap;
        uint96 jurorCap;
    }

    /// @notice What opens a case.
    /// @param owner The accused.
    /// @param pool The juror pool of the model and profile of all that is shown.
    /// @param shown The receipts shown, at most 32.
    /// @param evidenceHash keccak of the evidence file.
    /// @param evidenceUri Where the challenger serves that file.
    struct Opening {
        address owner;
        uint24 pool;
        Shown[] shown;
        bytes32 evidenceHash;
        string evidenceUri;
    }

    /// @notice A case.
    /// @param owner The accused.
    /// @param status Where it stands.
    /// @param round The round under way or last decided, from 0.
    /// @param appeals Appeals so far.
    /// @param verdict The verdict that stands: 1 match, 2 mismatch, 3 inconclusive; 0 while undecided.
    /// @param enlarged Whether an inconclusive jury was enlarged already.
    /// @param redrawn Whether a jury was replaced already, because it could not be seated or too few of it revealed.
    /// @param ownJob Whether a payer has one job of its own re-executed.
    /// @param challenger Who opened it.
    /// @param pool The juror pool of the pair that it names.
    /// @param openedAt When it was opened.
    /// @param epoch The 4-week epoch of its opening: no stake of an owner is slashed twice in one.
    /// @param appealEnd Until when the decision may be appealed.
    /// @param tips What is left for those who move the case on.
    /// @param shownHash keccak(abi.encode(shown)).
    struct Case {
        address owner;
        Status status;
        uint16 round;
        uint8 appeals;
        uint8 verdict;
        bool enlarged;
        bool redrawn;
        bool ownJob;
        address challenger;
        uint24 pool;
        uint40 openedAt;
        uint32 epoch;
        uint40 appealEnd;
        uint96 tips;
        bytes32 shownHash;
    }

    /// @notice A round of a case.
    /// @param size Jurors wanted, then jurors seated.
    /// @param committed Votes committed.
    /// @param revealed Votes revealed.
    /// @param commitEnd End of the commit phase.
    /// @param revealEnd End of the reveal phase.
    /// @param seedBlock Block whose hash draws the jury; zero once it is drawn.
    struct Round {
        uint16 size;
        uint16 committed;
        uint16 revealed;
        uint40 commitEnd;
        uint40 revealEnd;
        uint64 seedBlock;
    }

    /// @notice An appeal.
    /// @param appellant Who appealed and paid.
    /// @param appealed The verdict against which.
    /// @param outcome What its last jury said; zero when none could be seated.
    struct Appeal {
        address appellant;
        uint8 appealed;
        uint8 outcome;
    }

    /// @notice A juror's vote; `hash` is zero until committed and once revealed, `verdict` until revealed.
    struct Vote {
        bytes32 hash;
        uint8 verdict;
    }

    /// @notice A case was opened; `shown` is abi.encode of its Shown[], whose hash the case keeps.
    event CaseOpened(
        uint256 indexed caseId,
        address indexed owner,
        address indexed challenger,
        uint24 pool,
        bytes32 evidenceHash,
        string evidenceUri,
        bytes shown
    );
    /// @notice The jury of a round was drawn; commit until `commitEnd`, reveal until `revealEnd`.
    event JurorsDrawn(
        uint256 indexed caseId, uint16 indexed round, address[] jurors, uint40 commitEnd, uint40 revealEnd
    );
    /// @notice A juror has bound itself to a vote.
    event VoteCommitted(uint256 indexed caseId, uint16 indexed round, address indexed juror, bytes32 hash);
    /// @notice All have committed: the reveal phase has begun early.
    event CommitsClosed(uint256 indexed caseId, uint16 indexed round);
    /// @notice A juror has shown its vote.
    event VoteRevealed(
        uint256 indexed caseId, uint16 indexed round, address indexed juror, uint8 verdict, int64 logE
    );
    /// @notice A round has ended. `verdict` is the one that stands now; `appealEnd` is zero when it can't be appealed, or
    /// not yet, because another round follows.
    event CaseDecided(uint256 indexed caseId, uint16 indexed round, uint8 verdict, uint40 appealEnd);
    /// @notice Another round was opened, by an appeal or, with `appellant` zero, to enlarge or replace a jury.
    event RoundOpened(uint256 indexed caseId, uint16 indexed round, address indexed appellant, uint16 size);
    /// @notice A juror pays: for not revealing, for a vote against the verdict, or for too many inconclusive ones in a row.
    event JurorPenalised(uint256 indexed caseId, address indexed juror, uint96 amount);
    /// @notice The case has ended: what was slashed, refunded to payers, burned, and paid out of the slash.
    event CaseExecuted(
        uint256 indexed caseId, uint8 verdict, uint256 slashed, uint256 refunded, uint256 burned, uint256 rewards
    );
    /// @notice Somebody can withdraw more.
    event Credited(address indexed account, uint256 amount);
    /// @notice A credit was withdrawn.
    event CreditWithdrawn(address indexed account, uint256 amount);

    /// @notice A case shows from 1 to `most` receipts, an own job is one.
    error CourtShownCount(uint256 given, uint256 most);
    /// @notice The accused has neither stake nor held credit that a verdict could take.
    error CourtNothingAtStake(address owner);
    /// @notice No owner may open a case against itself.
    error CourtSelfCase(address owner);
    /// @notice A case names a juror pool. One that may not judge the accused ends the case inconclusive.
    error CourtNoPool();
    /// @notice Only who paid for a job may have it re-executed.
    error CourtNotPayer(address payer, address caller);
    /// @notice The case is not in the state that this needs.
    error CourtWrongStatus(uint256 caseId, Status expected, Status actual);
    /// @notice The block that draws the jury has not been mined, or its hash cannot be read yet.
    error CourtSeedNotReady(uint256 seedBlock, uint256 currentBlock);
    /// @notice The caller does not stand for the juror in this seat.
    error CourtNotJuror(uint256 caseId, address caller);
    /// @notice Commitments ended at `commitEnd`.
    error CourtCommitEnded(uint40 commitEnd, uint256 time);
    /// @notice A juror commits once in a round, and not to zero.
    error CourtAlreadyCommitted(uint256 caseId, address juror);
    /// @notice Votes are revealed after the commit phase and before `revealEnd`.
    error CourtNotRevealPhase(uint40 commitEnd, uint40 revealEnd, uint256 time);
    /// @notice A juror reveals once in a round.
    error CourtAlreadyRevealed(uint256 caseId, address juror);
    /// @notice The revealed vote does not hash to the commitment.
    error CourtRevealMismatch(bytes32 committed, bytes32 revealed);
    /// @notice A verdict must be 1 (match), 2 (mismatch) or 3 (inconclusive).
    error CourtInvalidVerdict(uint8 verdict);
    /// @notice The round still waits for votes until `until`.
    error CourtVotesPending(uint256 caseId, uint40 until);
    /// @notice The commit phase is over already.
    error CourtCommitsClosed(uint256 caseId, uint40 commitEnd);
    /// @notice The decision cannot be appealed any more.
    error CourtAppealEnded(uint40 appealEnd, uint256 time);
    /// @notice The decision may still be appealed.
    error CourtAppealOpen(uint40 appealEnd, uint256 time);
    /// @notice The given entries are not those of the case.
    error CourtWrongShown(bytes32 expected, bytes32 given);
    /// @notice The account has no credit.
    error CourtNoCredit(address account);
    /// @notice A jury has from 1 to `most` jurors.
    error CourtJurySize(uint16 size, uint16 most);

    /// @notice Opens a case, with fee, bond and tips pulled from the caller. Not while paused.
    function open(Opening calldata opening) external returns (uint256 caseId);

    /// @notice Has one job of the caller's own re-executed by a jury, for the case fee and tips. A mismatch pays job and
    /// fee back from the stake and warns the owner; it slashes nothing else and is no evidence in any case. Not while
    /// paused.
    /// @param opening The owner of the node that served the job; its only shown entry is the receipt, whose path under the
    /// commit is in the evidence file.
    /// @return caseId The case.
    function openOwnJob(Opening calldata opening) external returns (uint256 caseId);

    /// @notice Draws the jury, for a tip. When too few may sit it is drawn once more from a later block; then a first round
    /// ends inconclusive (at once if IJurorPools.mayJudge says no), a later one leaves the last verdict standing.
    function draw(uint256 caseId) external;

    /// @notice Commits the vote of the juror in a seat; by the juror or its delegate.
    /// @param seat The juror's place in `jurorsOf`.
    /// @param hash keccak(abi.encode(caseId, round, juror, verdict, logE, salt)).
    function commitVote(uint256 caseId, uint16 round, uint16 seat, bytes32 hash) external;

    /// @notice Begins the reveal phase when all have committed. Nobody is paid for it: the phase begins anyway.
    function closeCommits(uint256 caseId) external;

    /// @notice Shows the vote of the juror in a seat. Anybody who knows the salt may.
    /// @param verdict 1 match, 2 mismatch, 3 inconclusive.
    /// @param logE The log of the owner's wealth in 1e-6 nat, as the juror computed it.
    /// @param salt The salt of the commitment.
    function revealVote(uint256 caseId, uint16 round, uint16 seat, uint8 verdict, int64 logE, bytes32 salt) external;

    /// @notice Ends the round once every vote is in or the time is over, for a tip. When less than half of the jury has
    /// revealed it is replaced, once; when it is inconclusive it is enlarged, once.
    /// @dev An appeal turns a verdict only by two thirds for another one: an inconclusive jury leaves it standing.
    function decide(uint256 caseId) external;

    /// @notice Draws, closes commits or decides, whichever is due: what a silent party left undone.
    function advance(uint256 caseId) external;

    /// @notice Opens a larger round against the decision, with a doubled fee and bond pulled from the caller.
    function appeal(uint256 caseId) external;

    /// @notice Ends the case, for a tip: slash, refunds, fees and bonds, penalties of jurors.
    /// @param shown The receipts shown, as opened.
    function execute(uint256 caseId, Shown[] calldata shown) external;

    /// @notice Sends the caller its credit.
    function withdrawCredit() external returns (uint256 amount);

    /// @notice What an account can withdraw.
    function credit(address account) external view returns (uint256);

    /// @notice A case.
    function caseOf(uint256 caseId) external view returns (Case memory);

    /// @notice A round of a case.
    function roundOf(uint256 caseId, uint16 round) external view returns (Round memory);

    /// @notice The `number`th appeal of a case, from 1.
    function appealOf(uint256 caseId, uint8 number) external view returns (Appeal memory);

    /// @notice The jury of a round, by seat.
    function jurorsOf(uint256 caseId, uint16 round) external view returns (address[] memory);

    /// @notice The vote of the juror in a seat.
    function voteOf(uint256 caseId, uint16 round, uint16 seat) external view returns (Vote memory);

    /// @notice How many inconclusive votes an operator has cast in a row where the verdict was not.
    function idleVotes(address juror) external view returns (uint256);

    /// @notice What opening a case pulls: fee, bond and tips.
    function openingCost() external view returns (uint256);

    /// @notice What the re-execution of an own job pulls: fee and tips.
    function ownJobCost() external view returns (uint256);

    /// @notice What the next appeal of a case pulls: doubled fee and bond, and tips.
    function appealCost(uint256 caseId) external view returns (uint256);

    /// @notice What cases opened in a 4-week epoch have taken as severities so far: it is not taken again.
    function takenOf(address owner, uint32 epoch) external view returns (uint96);

    /// @notice The parameters of this deployment.
    function parameters() external view returns (Parameters memory);

    /// @notice How many cases were opened; their ids run from 1.
    function caseCount() external view returns (uint256);

    /// @notice How many juries wait to be drawn; juror pools stand still meanwhile.
    function pendingDraws() external view returns (uint256);
}
