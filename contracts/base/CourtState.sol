// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

import {ICourt} from "../interfaces/ICourt.sol";
import {IRegistry} from "../interfaces/IRegistry.sol";
import {IStaking} from "../interfaces/IStaking.sol";
import {OPERATOR} from "../types/Role.sol";

/// @notice What the Court stores and what its deployment chose.
abstract contract CourtState is ICourt {
    uint8 internal constant MATCH = 1;
    uint8 internal constant MISMATCH = 2;
    uint8 internal constant INCONCLUSIVE = 3;
    /// @notice Length of an epoch: no stake is slashed twice for the cases opened in one.
    uint256 public constant EPOCH = 4 weeks;
    /// @dev Most jurors of a first round: enlarged and appealed twice, the last of 63 is drawn in one transaction.
    uint16 private constant MAX_FIRST_JURY = 7;

    /// @dev Three slots, of which opening a case writes each once. `tips` counts those not yet paid;
    /// `feeBits` bounds what the case locks of the fees that it shows.
    struct CaseState {
        address owner;
        Status status;
        uint8 round;
        uint8 appeals;
        uint8 verdict;
        uint8 tips;
        bool enlarged;
        bool redrawn;
        bool ownJob;
        uint32 openedAt;
        address challenger;
        uint48 seedBlock;
        uint24 pool;
        uint16 wanted;
        uint8 feeBits;
        bytes32 shownHash;
    }

    struct RoundState {
        uint16 size;
        uint40 commitEnd;
        uint40 revealEnd;
        uint40 appealEnd;
    }

    /// @dev `commitEnd` stands here too, so that a vote reads and writes no slot of the round.
    struct Seat {
        address juror;
        uint40 commitEnd;
        uint8 verdict;
        bytes32 hash;
    }

    IStaking internal immutable STAKING;
    IRegistry internal immutable REGISTRY;
    uint16 internal immutable JURY_SIZE;
    uint16 internal immutable SEED_DELAY;
    uint40 internal immutable COMMIT_SECONDS;
    uint40 internal immutable REVEAL_SECONDS;
    uint40 internal immutable APPEAL_SECONDS;
    uint40 internal immutable JUROR_AGE_SECONDS;
    uint96 internal immutable CASE_FEE;
    uint96 internal immutable CASE_BOND;
    uint96 internal immutable TIP;
    uint96 internal immutable DUTY;
    uint96 internal immutable CHALLENGER_CAP;
    uint96 internal immutable JUROR_CAP;

    uint64 internal _caseCount;
    uint32 internal _pendingDraws;
    mapping(uint256 caseId => CaseState) internal _cases;
    mapping(uint256 caseId => mapping(uint16 round => RoundState)) internal _rounds;
    mapping(uint256 caseId => mapping(uint8 number => Appeal)) internal _appeals;
    mapping(uint256 caseId => mapping(uint256 roundAndSeat => Seat)) private _seats;

    constructor(IStaking staking, IRegistry registry, Parameters memory chosen) {
        uint16 size = chosen.jurySize;
        require(size > 0 && size <= MAX_FIRST_JURY, CourtJurySize(size, MAX_FIRST_JURY));
        STAKING = staking;
        REGISTRY = registry;
        JURY_SIZE = size;
        SEED_DELAY = chosen.seedDelay;
        COMMIT_SECONDS = chosen.commitSeconds;
        REVEAL_SECONDS = chosen.revealSeconds;
        APPEAL_SECONDS = chosen.appealSeconds;
        JUROR_AGE_SECONDS = chosen.jurorAgeSeconds;
        CASE_FEE = chosen.caseFee;
        CASE_BOND = chosen.caseBond;
        TIP = chosen.tip;
        DUTY = chosen.duty;
        CHALLENGER_CAP = chosen.challengerCap;
        JUROR_CAP = chosen.jurorCap;
    }

    /// @inheritdoc ICourt
    function caseOf(uint256 caseId) external view returns (Case memory view_) {
        CaseState storage c = _cases[caseId];
        view_.owner = c.owner;
        view_.status = c.status;
        view_.round = c.round;
        view_.appeals = c.appeals;
        view_.verdict = c.verdict;
        view_.enlarged = c.enlarged;
        view_.redrawn = c.redrawn;
        view_.ownJob = c.ownJob;
        view_.challenger = c.challenger;
        view_.pool = c.pool;
        view_.openedAt = c.openedAt;
        view_.epoch = _epochOf(c);
        view_.appealEnd = _rounds[caseId][c.round].appealEnd;
        view_.tips = c.tips * TIP;
        view_.shownHash = c.shownHash;
    }

    /// @inheritdoc ICourt
    function appealOf(uint256 caseId, uint8 number) external view returns (Appeal memory) {
        return _appeals[caseId][number];
    }

    /// @inheritdoc ICourt
    function caseCount() external view returns (uint256) {
        return _caseCount;
    }

    /// @inheritdoc ICourt
    function pendingDraws() external view returns (uint256) {
        return _pendingDraws;
    }

    /// @inheritdoc ICourt
    function parameters() external view returns (Parameters memory) {
        return Parameters({
            jurySize: JURY_SIZE,
            seedDelay: SEED_DELAY,
            commitSeconds: COMMIT_SECONDS,
            revealSeconds: REVEAL_SECONDS,
            appealSeconds: APPEAL_SECONDS,
            jurorAgeSeconds: JUROR_AGE_SECONDS,
            caseFee: CASE_FEE,
            caseBond: CASE_BOND,
            tip: TIP,
            duty: DUTY,
            challengerCap: CHALLENGER_CAP,
            jurorCap: JUROR_CAP
        });
    }

    function _checkStatus(uint256 caseId, Status expected) internal view returns (CaseState storage c) {
        c = _cases[caseId];
        require(c.status == expected, CourtWrongStatus(caseId, expected, c.status));
    }

    /// @dev Locks or unlocks an operator's stake: one call in the code for the four that there are.
    function _tell(function(address, uint8, uint96) external what, address owner, uint96 amount) internal {
        what(owner, OPERATOR, amount);
    }

    function _take(address owner, IStaking.Slash memory order)
        internal
        returns (uint96 severity, uint96 refunded, uint96 burned)
    {
        return STAKING.slash(owner, OPERATOR, order);
    }

    function _seatOf(uint256 caseId, uint256 round, uint256 seat) internal view returns (Seat storage) {
        return _seats[caseId][round << 16 | seat];
    }

    /// @dev The owner behind a party: the node's owner if it is a node's key.
    function _ownerOf(address party) internal view returns (address) {
        address owner = REGISTRY.nodeOwner(party);
        return owner == address(0) ? party : owner;
    }

    function _epochOf(CaseState storage c) internal view returns (uint32) {
        return uint32(c.openedAt / EPOCH);
    }
}
