// SPDX-License-Identifier: Apache-2.0
pragma solidity >=0.8.34 <0.9.0;

/// @notice A receipt that a case shows: one with a drawn audit point of a commit.
struct Shown {
    uint64 commitId;
    bytes32 receiptDigest;
    address payer;
    uint96 fee;
}

/// @title Court
/// @notice Judges what needs re-execution: a case of drawn audit points against an owner, by a jury of operators drawn
/// by stake, which commits and reveals verdicts; a mismatch slashes the owner and pays the payers back.
/// @dev What the shown entries say is for the jurors to check against receipts and chain: a case with a wrong entry
/// does not deserve a mismatch. Staking's table says what a mismatch and a missed duty cost, and bounds the shares of
/// challenger and jurors. All payments are credits to be withdrawn.
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
    /// @param jurySize Jurors of the first round; a later round has 2n+1.
    /// @param seedDelay Blocks between opening a round and the block that draws its jury.
    /// @param commitSeconds Length of the commit phase, from the draw; it ends early when all have committed.
    /// @param revealSeconds Length of the reveal phase; it ends early when all have revealed.
    /// @param appealSeconds How long a decision may be appealed.
    /// @param jurorAgeSeconds How long before the opening a juror must have been bonded.
    /// @param caseFee Pays the jurors; returned only on mismatch.
    /// @param caseBond Returned on mismatch and inconclusive, lost on match.
    /// @param tip Paid to whoever moves a case on, at most `MAX_TIPS` times; what is not used returns.
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
        uint96 challengerCap;
        uint96 jurorCap;
    }

    /// @notice A case.
    /// @param owner The accused.
    /// @param challenger Who opened it.
    /// @param status Where it stands.
    /// @param round The round under way or last decided, from 0.
    /// @param appeals Appeals so far.
    /// @param enlarged Whether an inconclusive jury was enlarged already.
    /// @param verdict The last decided verdict: 1 match, 2 mismatch, 3 inconclusive; 0 while undecided.
    /// @param openedAt When it was opened.
    /// @param epoch The 4-week epoch of its opening: an owner is slashed once in one.
    /// @param appealEnd Until when the decision may be appealed.
    /// @param tips What is left for those who move the case on.
    /// @param feesLocked What the case keeps of the owner's stake for refunds, on top of the shared lock.
    /// @param shownHash keccak(abi.encode(shown)).
    struct Case {
        address owner;
        Status status;
        uint16 round;
        uint8 appeals;
        bool enlarged;
        uint8 verdict;
        address challenger;
        uint40 openedAt;
        uint32 epoch;
        uint40 appealEnd;
        uint96 tips;
        uint96 feesLocked;
        bytes32 shownHash;
    }

    /// @notice A round of a case.
    /// @param size Jurors wanted, then jurors seated.
    /// @param committed Votes committed.
    /// @param revealed Votes revealed.
    /// @param commitEnd End of the commit phase.
    /// @param revealEnd End of the reveal phase.
    /// @param seedBlock Block whose hash draws the jury.
    /// @param fee What the round's jurors share unless a mismatch pays them from the slash.
    /// @param bond What the funder of the round loses when it was wrong.
    /// @param appellant Who appealed; zero for a round that no appeal opened.
    /// @param appealed The verdict that was appealed.
    struct Round {
        uint16 size;
        uint16 committed;
        uint16 revealed;
        uint40 commitEnd;
        uint40 revealEnd;
        uint64 seedBlock;
        uint96 fee;
        uint96 bond;
        address appellant;
        uint8 appealed;
    }

    /// @notice A juror's vote; `verdict` is zero until revealed.
    struct Vote {
        bytes32 hash;
        uint8 verdict;
        int64 logE;
    }

    /// @notice A case was opened; `shown` is abi.encode of its Shown[].
    event CaseOpened(
        uint256 indexed caseId,
        address indexed owner,
        address indexed challenger,
        bytes32 evidenceHash,
        string evidenceUri,
        bytes32 shownHash,
        bytes shown
    );
    /// @notice The jury of a round was drawn; commit until `commitEnd`, reveal until `revealEnd`.
    event JurorsDrawn(
        uint256 indexed caseId, uint16 indexed round, address[] jurors, uint40 commitEnd, uint40 revealEnd
    );
    /// @notice A juror has bound itself to a vote.
    event VoteCommitted(uint256 indexed caseId, uint16 indexed round, address indexed juror, bytes32 hash);
    /// @notice A juror has shown its vote.
    event VoteRevealed(
        uint256 indexed caseId, uint16 indexed round, address indexed juror, uint8 verdict, int64 logE
    );
    /// @notice A round has ended with a verdict; `appealEnd` is zero when it cannot be appealed.
    event CaseDecided(uint256 indexed caseId, uint16 indexed round, uint8 verdict, uint40 appealEnd);
    /// @notice A new round was opened, by an appeal or, with `appellant` zero, to enlarge an inconclusive jury.
    event RoundOpened(uint256 indexed caseId, uint16 indexed round, address indexed appellant, uint16 size);
    /// @notice The case has ended: what was slashed, refunded to payers, burned, and paid out of the slash.
    event CaseExecuted(
        uint256 indexed caseId, uint8 verdict, uint256 slashed, uint256 refunded, uint256 burned, uint256 rewards
    );
    /// @notice Somebody can withdraw more.
    event Credited(address indexed account, uint256 amount);
    /// @notice A credit was withdrawn.
    event CreditWithdrawn(address indexed account, uint256 amount);

    /// @notice A case shows from 1 to `most` receipts.
    error CourtShownCount(uint256 given, uint256 most);
    /// @notice The accused has no stake that a verdict could take.
    error CourtNothingAtStake(address owner);
    /// @notice No owner may open a case against itself.
    error CourtSelfCase(address owner);
    /// @notice The case is not in the state that this needs.
    error CourtWrongStatus(uint256 caseId, Status expected, Status actual);
    /// @notice The block that draws the jury has not been mined, or its hash cannot be read yet.
    error CourtSeedNotReady(uint256 seedBlock, uint256 currentBlock);
    /// @notice The caller does not stand for any juror of this round.
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
    /// @notice The decision cannot be appealed any more.
    error CourtAppealEnded(uint40 appealEnd, uint256 time);
    /// @notice The decision may still be appealed.
    error CourtAppealOpen(uint40 appealEnd, uint256 time);
    /// @notice The given entries are not those of the case.
    error CourtWrongShown(bytes32 expected, bytes32 given);
    /// @notice The account has no credit.
    error CourtNoCredit(address account);
    /// @notice A jury has at least one juror.
    error CourtEmptyJury();

    /// @notice Opens a case, with fee, bond and tips pulled from the caller.
    /// @param owner The accused.
    /// @param shown The receipts shown, at most 32.
    /// @param evidenceHash keccak of the evidence file.
    /// @param evidenceUri Where the challenger serves that file.
    /// @return caseId The case.
    function open(address owner, Shown[] calldata shown, bytes32 evidenceHash, string calldata evidenceUri)
        external
        returns (uint256 caseId);

    /// @notice Draws the jury of the round, for a tip. With too few candidates a first round ends inconclusive and a
    /// later one leaves the last verdict standing.
    function draw(uint256 caseId) external;

    /// @notice Commits a juror's vote; by the juror or its delegate.
    /// @param hash keccak(abi.encode(caseId, round, juror, verdict, logE, salt)).
    function commitVote(uint256 caseId, bytes32 hash) external;

    /// @notice Shows a juror's vote; by the juror or its delegate.
    /// @param caseId The case.
    /// @param verdict 1 match, 2 mismatch, 3 inconclusive.
    /// @param logE The log of the owner's wealth in 1e-6 nat, as the juror computed it.
    /// @param salt The salt of the commitment.
    function revealVote(uint256 caseId, uint8 verdict, int64 logE, bytes32 salt) external;

    /// @notice Ends the round once every vote is in or the time is over, for a tip.
    function decide(uint256 caseId) external;

    /// @notice Draws or decides, whichever is due: what a silent party left undone.
    function advance(uint256 caseId) external;

    /// @notice Opens a larger round against the decision, with a doubled fee and bond pulled from the caller.
    function appeal(uint256 caseId) external;

    /// @notice Ends the case: slash and refunds on mismatch, fees and bonds to whom they are due, for a tip.
    /// @param caseId The case.
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

    /// @notice The jury of a round.
    function jurorsOf(uint256 caseId, uint16 round) external view returns (address[] memory);

    /// @notice A juror's vote in a round.
    function voteOf(uint256 caseId, uint16 round, address juror) external view returns (Vote memory);

    /// @notice What opening a case pulls: fee, bond and tips.
    function openingCost() external view returns (uint256);

    /// @notice What the next appeal of a case pulls: doubled fee and bond, and tips.
    function appealCost(uint256 caseId) external view returns (uint256);

    /// @notice Whether an owner was slashed for cases opened in a 4-week epoch.
    function wasSlashed(address owner, uint32 epoch) external view returns (bool);

    /// @notice The parameters of this deployment.
    function parameters() external view returns (Parameters memory);

    /// @notice How many cases were opened; their ids run from 1.
    function caseCount() external view returns (uint256);
}
