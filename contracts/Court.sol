// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

import {Ownable} from "@openzeppelin/contracts/access/Ownable.sol";
import {IERC20} from "@openzeppelin/contracts/token/ERC20/IERC20.sol";
import {SafeERC20} from "@openzeppelin/contracts/token/ERC20/utils/SafeERC20.sol";
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
import {Shown} from "./types/Shown.sol";

/// @notice See ICourt.
contract Court is Juries, CaseLocks, CourtMoney, Pause {
    using SafeERC20 for IERC20;

    /// @dev What a mismatch has taken, and what it has left unlocked.
    struct Taken {
        uint96 slashed;
        uint96 refunded;
        uint96 burned;
        uint96 freed;
    }

    /// @notice Most receipts that a case shows.
    uint256 public constant MAX_SHOWN = 32;
    /// @notice Appeals of one case.
    uint8 public constant MAX_APPEALS = 2;

    /// @dev Most rounds of a case: the first, a replaced and an enlarged one, and the appeals.
    uint256 private constant MAX_ROUNDS = 3 + MAX_APPEALS;

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
        CaseLocks(staking, escrow)
        Juries(randomness, pools)
        Ownable(contractOwner)
        Pause(guardian_)
    {
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
        (uint8 outcome, bool silent, bool doubted) = _tally(caseId, decided);
        // What is appealed stands unless a jury turns it; but a slash falls that half of a jury speaks against.
        if (c.appeals == 0 || outcome != INCONCLUSIVE || (doubted && c.verdict == MISMATCH)) c.verdict = outcome;
        if (c.appeals > 0) _appeals[caseId][c.appeals].outcome = outcome;

        uint16 next;
        if (silent && !c.redrawn) {
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
        Taken memory taken;
        if (verdict == MISMATCH) taken = _slash(c, shown, payees);
        // Shares of a slash that is less than the fee would not pay them.
        uint96 lost = _settle(caseId, c, payees, taken.slashed >= CASE_FEE);
        _tip(c);
        _credit(c.challenger, uint256(c.tips) * TIP);
        c.tips = 0;

        uint96 rewards = taken.slashed > taken.burned ? taken.slashed - taken.burned : 0;
        emit CaseExecuted(caseId, verdict, taken.slashed, taken.refunded, taken.burned, rewards);

        _unlock(c, shown, taken.freed);
        if (verdict == MISMATCH) REGISTRY.warn(c.owner);
        // An asset that refuses to be burned must not keep a case from its end: then it stays here, as nobody's.
        if (lost > 0 && !IERC20(ASSET).trySafeTransfer(BURN, lost)) _credit(BURN, lost);
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
        uint96 claimed;
        (claimed, c.feeBits) = _claim(o.owner, ownJob, o.shown);
        c.shownHash = keccak256(encoded);
        _cases[caseId] = c;

        emit CaseOpened(caseId, o.owner, msg.sender, o.pool, o.evidenceHash, o.evidenceUri, encoded);

        _tell(STAKING.lock, o.owner, claimed);
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

    /// @dev The severity, of no stake twice in an epoch, and on top of it every shown receipt back to its payer. Held
    /// credit counts as stake and is moved into it where that is short. An own job costs the fee of its re-execution only.
    function _slash(CaseState storage c, Shown[] calldata shown, address[] memory jurors)
        private
        returns (Taken memory taken)
    {
        IStaking.Slash memory order;
        order.receipts = new bytes32[](shown.length);
        order.payers = new address[](shown.length);
        order.refunds = new uint96[](shown.length);
        uint256 needed;
        for (uint256 i; i < shown.length; ++i) {
            Shown calldata entry = shown[i];
            order.receipts[i] = entry.receiptDigest;
            order.payers[i] = entry.payer;
            order.refunds[i] = entry.fee;
            needed += entry.fee;
        }
        (uint256 stake, uint256 held) = (_stakeOf(c.owner), _heldOf(c.owner));
        if (c.ownJob) {
            uint256 refund = needed + CASE_FEE;
            order.refunds[0] = refund < type(uint96).max ? uint96(refund) : type(uint96).max;
            needed = order.refunds[0];
        } else {
            uint256 atStake = stake + held;
            (order.severity, taken.freed) = _takeDue(c, atStake, atStake > needed ? atStake - needed : 0);
            order.challenger = c.challenger;
            order.challengerShare = CHALLENGER_CAP;
            order.jurors = jurors;
            order.jurorShare = JUROR_CAP;
        }
        needed += order.severity;
        if (needed > stake && held > 0) {
            uint256 short = needed - stake;
            ESCROW.slashHeld(c.owner, uint96(short < held ? short : held));
        }
        (taken.slashed, taken.refunded, taken.burned) = _take(c.owner, order);
    }
}
