// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

import {Ownable} from "@openzeppelin/contracts/access/Ownable.sol";
import {SafeTransferLib} from "solady/src/utils/SafeTransferLib.sol";

import {CaseLocks} from "./base/CaseLocks.sol";
import {CourtMoney} from "./base/CourtMoney.sol";
import {CourtState} from "./base/CourtState.sol";
import {Juries} from "./base/Juries.sol";
import {Pause} from "./base/Pause.sol";
import {ICourt} from "./interfaces/ICourt.sol";
import {IEscrow} from "./interfaces/IEscrow.sol";
import {IJurorPools} from "./interfaces/IJurorPools.sol";
import {IRandomness} from "./interfaces/IRandomness.sol";
import {IRegistry} from "./interfaces/IRegistry.sol";
import {IStaking} from "./interfaces/IStaking.sol";
import {Delays} from "./libraries/Delays.sol";
import {OPERATOR} from "./types/Role.sol";
import {Shown} from "./types/Shown.sol";

/// @notice See ICourt.
contract Court is Juries, CaseLocks, CourtMoney, Pause {
    /// @notice Most receipts that a case shows.
    uint256 public constant MAX_SHOWN = 32;
    /// @notice Appeals of one case.
    uint8 public constant MAX_APPEALS = 2;

    /// @dev Most rounds of a case: the first, a replaced and an enlarged one, and the appeals.
    uint256 private constant MAX_ROUNDS = 3 + MAX_APPEALS;

    IEscrow private immutable ESCROW;

    constructor(
        IEscrow escrow,
        IStaking staking,
        IRegistry registry,
        IRandomness randomness,
        IJurorPools pools,
        address contractOwner,
        address guardian_,
        Parameters memory chosen
    )
        CourtState(staking, registry, chosen)
        CourtMoney(escrow.asset())
        CaseLocks(staking)
        Juries(randomness, pools)
        Ownable(contractOwner)
        Pause(guardian_)
    {
        ESCROW = escrow;
        IEscrow.Parameters memory money = escrow.parameters();
        IStaking.Parameters memory stakes = staking.parameters();
        uint256 round = uint256(chosen.commitSeconds) + chosen.revealSeconds;
        Delays({
            payerThaw: money.thawPeriod,
            evidence: money.exposureWindow,
            judgement: MAX_ROUNDS * round + uint256(MAX_APPEALS) * chosen.appealSeconds,
            stakeThaw: stakes.thawPeriod,
            tightening: stakes.slasherDelay
        }).check();
    }

    /// @inheritdoc ICourt
    function open(Opening calldata opening) external whenRunning returns (uint256 caseId) {
        return _open(opening, false);
    }

    /// @inheritdoc ICourt
    function openOwnJob(Opening calldata opening) external whenRunning returns (uint256 caseId) {
        caseId = _open(opening, true);
        address payer = opening.shown[0].payer;
        require(msg.sender == payer, CourtNotPayer(payer, msg.sender));
    }

    /// @inheritdoc ICourt
    function draw(uint256 caseId) public {
        CaseState storage c = _checkStatus(caseId, Status.Drawing);
        // Whom strangers could accuse before a pool of their own, they would convict: that needs no jury to be refused.
        bool mayJudge = c.round > 0 || POOLS.mayJudge(c.pool, c.owner);
        address[] memory jury;
        if (mayJudge) jury = _drawJury(caseId, c);
        --_pendingDraws;
        if (jury.length > 0) {
            c.status = Status.Voting;
            _seat(caseId, c.round, jury);
        } else if (mayJudge && !c.redrawn) {
            c.redrawn = true;
            _openRound(caseId, c, c.wanted, address(0));
        } else {
            // A first round ends inconclusive, a later one leaves the last verdict standing.
            c.status = Status.Decided;
            if (c.verdict == 0) c.verdict = INCONCLUSIVE;
            emit CaseDecided(caseId, c.round, c.verdict, 0);
        }
        _tip(c);
    }

    /// @inheritdoc ICourt
    function decide(uint256 caseId) public {
        CaseState storage c = _checkStatus(caseId, Status.Voting);
        uint16 decided = c.round;
        RoundState storage round = _rounds[caseId][decided];
        (uint8 outcome, uint256 revealed) = _tally(caseId, decided);
        if (c.appeals == 0 || outcome != INCONCLUSIVE) c.verdict = outcome;
        if (c.appeals > 0) _appeals[caseId][c.appeals].outcome = outcome;

        uint16 next;
        if (revealed * 2 < round.size && !c.redrawn) {
            c.redrawn = true;
            next = round.size;
        } else if (outcome == INCONCLUSIVE && !c.enlarged) {
            c.enlarged = true;
            next = 2 * round.size + 1;
        } else {
            c.status = Status.Decided;
            if (c.appeals < MAX_APPEALS) round.appealEnd = uint40(block.timestamp) + APPEAL_SECONDS;
        }
        emit CaseDecided(caseId, decided, c.verdict, round.appealEnd);
        if (next > 0) {
            ++c.round;
            _openRound(caseId, c, next, address(0));
        }
        _tip(c);
    }

    /// @inheritdoc ICourt
    function advance(uint256 caseId) external {
        CaseState storage c = _cases[caseId];
        if (c.status == Status.Drawing) draw(caseId);
        else if (block.timestamp <= _rounds[caseId][c.round].commitEnd) closeCommits(caseId);
        else decide(caseId);
    }

    /// @inheritdoc ICourt
    function appeal(uint256 caseId) external {
        CaseState storage c = _checkStatus(caseId, Status.Decided);
        RoundState storage round = _rounds[caseId][c.round];
        require(block.timestamp <= round.appealEnd, CourtAppealEnded(round.appealEnd, block.timestamp));
        uint256 cost = appealCost(caseId);

        _appeals[caseId][++c.appeals] = Appeal(msg.sender, c.verdict, 0);
        ++c.round;
        c.tips += 2;
        _openRound(caseId, c, 2 * round.size + 1, msg.sender);

        SafeTransferLib.safeTransferFrom(ASSET, msg.sender, address(this), cost);
    }

    /// @inheritdoc ICourt
    function execute(uint256 caseId, Shown[] calldata shown) external {
        CaseState storage c = _checkStatus(caseId, Status.Decided);
        uint40 appealEnd = _rounds[caseId][c.round].appealEnd;
        require(block.timestamp > appealEnd, CourtAppealOpen(appealEnd, block.timestamp));
        bytes32 given = keccak256(abi.encode(shown));
        require(given == c.shownHash, CourtWrongShown(c.shownHash, given));

        c.status = Status.Closed;
        uint8 verdict = c.verdict;
        address[] memory payees = _dismiss(caseId, c.round, verdict);
        (uint96 slashed, uint96 refunded, uint96 burned) = (0, 0, 0);
        if (verdict == MISMATCH) (slashed, refunded, burned) = _slash(c, shown, payees);
        uint96 lost = _settle(caseId, c, payees, slashed > 0);
        _tip(c);
        _credit(c.challenger, uint256(c.tips) * TIP);
        c.tips = 0;

        emit CaseExecuted(caseId, verdict, slashed, refunded, burned, slashed > burned ? slashed - burned : 0);

        _unlock(c, shown);
        if (verdict == MISMATCH) REGISTRY.warn(c.owner);
        if (lost > 0) SafeTransferLib.safeTransfer(ASSET, BURN, lost);
    }

    /// @dev Two kinds of a case: one of many receipts, and a payer's one.
    function _open(Opening calldata o, bool ownJob) private returns (uint256 caseId) {
        uint256 most = ownJob ? 1 : MAX_SHOWN;
        require(o.shown.length > 0 && o.shown.length <= most, CourtShownCount(o.shown.length, most));
        // Whoever hides behind another account gains nothing: half of a slash is burned.
        require(msg.sender != o.owner, CourtSelfCase(o.owner));
        require(o.pool != 0, CourtNoPool());
        bytes memory encoded = abi.encode(o.shown);

        caseId = ++_caseCount;
        CaseState memory c;
        c.owner = o.owner;
        c.status = Status.Drawing;
        c.tips = MAX_TIPS;
        c.ownJob = ownJob;
        c.openedAt = uint32(block.timestamp);
        c.challenger = msg.sender;
        c.seedBlock = _nextSeedBlock();
        c.pool = o.pool;
        c.wanted = JURY_SIZE;
        c.shownHash = keccak256(encoded);
        _cases[caseId] = c;

        emit CaseOpened(caseId, o.owner, msg.sender, o.pool, o.evidenceHash, o.evidenceUri, encoded);

        _lock(o.owner, ownJob, o.shown);
        SafeTransferLib.safeTransferFrom(ASSET, msg.sender, address(this), ownJob ? ownJobCost() : openingCost());
    }

    function _openRound(uint256 caseId, CaseState storage c, uint16 size, address appellant) private {
        c.status = Status.Drawing;
        c.wanted = size;
        c.seedBlock = _nextSeedBlock();
        emit RoundOpened(caseId, c.round, appellant, size);
    }

    function _nextSeedBlock() private returns (uint48) {
        ++_pendingDraws;
        return uint48(RANDOMNESS.currentBlock() + SEED_DELAY);
    }

    /// @dev Payers first: severity once an epoch, and on top of it every shown receipt back to its payer. Held credit is
    /// moved into the stake where that alone is short. An own job costs no severity, but the fee of its re-execution.
    function _slash(CaseState storage c, Shown[] calldata shown, address[] memory jurors)
        private
        returns (uint96 slashed, uint96 refunded, uint96 burned)
    {
        IStaking.Slash memory order;
        order.receipts = new bytes32[](shown.length);
        order.payers = new address[](shown.length);
        order.refunds = new uint96[](shown.length);
        uint256 needed;
        for (uint256 i; i < shown.length; ++i) {
            order.receipts[i] = shown[i].receiptDigest;
            order.payers[i] = shown[i].payer;
            order.refunds[i] = shown[i].fee;
            needed += shown[i].fee;
        }
        uint96 stake = STAKING.slashable(c.owner, OPERATOR);
        if (c.ownJob) {
            uint256 refund = needed + CASE_FEE;
            order.refunds[0] = refund < type(uint96).max ? uint96(refund) : type(uint96).max;
            needed = order.refunds[0];
        } else if (_isFirstSlash(c)) {
            order.severity = _severity(c, stake, stake > needed ? stake - needed : 0);
            order.challenger = c.challenger;
            order.challengerShare = CHALLENGER_CAP;
            order.jurors = jurors;
            order.jurorShare = JUROR_CAP;
        }
        needed += order.severity;
        if (needed > stake) {
            uint256 held = ESCROW.heldOf(c.owner);
            uint256 short = needed - stake;
            if (held > 0) ESCROW.slashHeld(c.owner, uint96(short < held ? short : held));
        }
        return _take(c.owner, order);
    }
}
