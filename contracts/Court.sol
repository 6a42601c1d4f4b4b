// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

import {SafeTransferLib} from "solady/src/utils/SafeTransferLib.sol";

import {CaseLocks} from "./base/CaseLocks.sol";
import {Juries} from "./base/Juries.sol";
import {ICourt, Shown} from "./interfaces/ICourt.sol";
import {IEscrow} from "./interfaces/IEscrow.sol";
import {IRandomness} from "./interfaces/IRandomness.sol";
import {IRegistry} from "./interfaces/IRegistry.sol";
import {IStaking} from "./interfaces/IStaking.sol";
import {OPERATOR} from "./types/Role.sol";

/// @notice See ICourt.
contract Court is CaseLocks {
    /// @notice Most receipts that a case shows.
    uint256 public constant MAX_SHOWN = 32;
    /// @notice Tips that opening a case pays for; an appeal pays for two more.
    uint256 public constant MAX_TIPS = 5;
    /// @notice Appeals of one case.
    uint8 public constant MAX_APPEALS = 2;
    /// @notice Length of an epoch: an owner is slashed once for the cases opened in one.
    uint256 public constant EPOCH = 4 weeks;

    address private constant BURN = 0x000000000000000000000000000000000000dEaD;

    IEscrow private immutable ESCROW;
    address private immutable ASSET;

    /// @inheritdoc ICourt
    mapping(address account => uint256) public credit;

    constructor(
        IEscrow escrow,
        IStaking staking,
        IRegistry registry,
        IRandomness randomness,
        Parameters memory chosen
    ) Juries(staking, registry, randomness, chosen) {
        ESCROW = escrow;
        ASSET = escrow.asset();
    }

    /// @inheritdoc ICourt
    function open(address owner, Shown[] calldata shown, bytes32 evidenceHash, string calldata evidenceUri)
        external
        returns (uint256 caseId)
    {
        require(shown.length > 0 && shown.length <= MAX_SHOWN, CourtShownCount(shown.length, MAX_SHOWN));
        require(STAKING.slashable(owner, OPERATOR) > 0, CourtNothingAtStake(owner));
        require(_ownerOf(msg.sender) != owner, CourtSelfCase(owner));

        caseId = ++caseCount;
        Case storage c = _cases[caseId];
        c.owner = owner;
        c.challenger = msg.sender;
        c.openedAt = uint40(block.timestamp);
        c.epoch = uint32(block.timestamp / EPOCH);
        c.tips = uint96(_parameters.tip * MAX_TIPS);
        c.shownHash = keccak256(abi.encode(shown));
        _openRound(caseId, c, _parameters.jurySize, _parameters.caseFee, _parameters.caseBond);

        emit CaseOpened(caseId, owner, msg.sender, evidenceHash, evidenceUri, c.shownHash, abi.encode(shown));

        _lock(c, shown);
        SafeTransferLib.safeTransferFrom(ASSET, msg.sender, address(this), openingCost());
    }

    /// @inheritdoc ICourt
    function draw(uint256 caseId) public {
        Case storage c = _checkStatus(caseId, Status.Drawing);
        if (_seat(caseId, c)) {
            c.status = Status.Voting;
        } else {
            _abandonRound(caseId, c);
        }
        _tip(c);
    }

    /// @inheritdoc ICourt
    function decide(uint256 caseId) public {
        Case storage c = _checkStatus(caseId, Status.Voting);
        Round storage round = _rounds[caseId][c.round];
        uint40 until = _waitsUntil(round);
        require(until == 0, CourtVotesPending(caseId, until));

        uint8 verdict = _tally(caseId, c.round);
        uint16 decided = c.round;
        c.verdict = verdict;
        if (verdict == INCONCLUSIVE && !c.enlarged) {
            c.enlarged = true;
            emit CaseDecided(caseId, decided, verdict, 0);
            ++c.round;
            _openRound(caseId, c, 2 * round.size + 1, 0, 0);
        } else {
            c.status = Status.Decided;
            if (c.appeals < MAX_APPEALS) c.appealEnd = uint40(block.timestamp) + _parameters.appealSeconds;
            else c.appealEnd = 0;
            emit CaseDecided(caseId, decided, verdict, c.appealEnd);
        }
        _tip(c);
        _release(caseId, decided);
    }

    /// @inheritdoc ICourt
    function advance(uint256 caseId) external {
        if (_cases[caseId].status == Status.Drawing) draw(caseId);
        else decide(caseId);
    }

    /// @inheritdoc ICourt
    function appeal(uint256 caseId) external {
        Case storage c = _checkStatus(caseId, Status.Decided);
        require(block.timestamp <= c.appealEnd, CourtAppealEnded(c.appealEnd, block.timestamp));
        uint256 cost = appealCost(caseId);
        uint16 size = 2 * _rounds[caseId][c.round].size + 1;
        uint8 appealed = c.verdict;

        ++c.appeals;
        ++c.round;
        c.tips += 2 * _parameters.tip;
        Round storage round = _rounds[caseId][c.round];
        round.appellant = msg.sender;
        round.appealed = appealed;
        _openRound(caseId, c, size, _parameters.caseFee << c.appeals, _parameters.caseBond << c.appeals);

        SafeTransferLib.safeTransferFrom(ASSET, msg.sender, address(this), cost);
    }

    /// @inheritdoc ICourt
    function execute(uint256 caseId, Shown[] calldata shown) external {
        Case storage c = _checkStatus(caseId, Status.Decided);
        require(block.timestamp > c.appealEnd, CourtAppealOpen(c.appealEnd, block.timestamp));
        bytes32 given = keccak256(abi.encode(shown));
        require(given == c.shownHash, CourtWrongShown(c.shownHash, given));

        c.status = Status.Closed;
        address[] memory payees = _coherent(caseId, c.round, c.verdict);
        uint96 slashed;
        uint96 refunded;
        uint96 burned;
        if (c.verdict == MISMATCH) (slashed, refunded, burned) = _slash(c, shown, payees);
        uint96 lost = _settle(caseId, c, payees, slashed > 0);
        _tip(c);
        _credit(c.challenger, c.tips);
        c.tips = 0;

        emit CaseExecuted(caseId, c.verdict, slashed, refunded, burned, slashed > burned ? slashed - burned : 0);

        _unlock(c);
        if (c.verdict == MISMATCH) REGISTRY.warn(c.owner);
        if (lost > 0) SafeTransferLib.safeTransfer(ASSET, BURN, lost);
    }

    /// @inheritdoc ICourt
    function withdrawCredit() external returns (uint256 amount) {
        amount = credit[msg.sender];
        require(amount > 0, CourtNoCredit(msg.sender));
        credit[msg.sender] = 0;
        emit CreditWithdrawn(msg.sender, amount);
        SafeTransferLib.safeTransfer(ASSET, msg.sender, amount);
    }

    /// @inheritdoc ICourt
    function openingCost() public view returns (uint256) {
        return uint256(_parameters.caseFee) + _parameters.caseBond + _parameters.tip * MAX_TIPS;
    }

    /// @inheritdoc ICourt
    function appealCost(uint256 caseId) public view returns (uint256) {
        uint256 doublings = _cases[caseId].appeals + 1;
        return ((uint256(_parameters.caseFee) + _parameters.caseBond) << doublings) + 2 * uint256(_parameters.tip);
    }

    function _openRound(uint256 caseId, Case storage c, uint16 size, uint96 fee, uint96 bond) private {
        c.status = Status.Drawing;
        Round storage round = _rounds[caseId][c.round];
        round.size = size;
        round.fee = fee;
        round.bond = bond;
        round.seedBlock = uint64(RANDOMNESS.currentBlock() + _parameters.seedDelay);
        emit RoundOpened(caseId, c.round, round.appellant, size);
    }

    /// @dev No jury can be seated: a first round ends inconclusive, a later one leaves the last verdict standing and
    /// returns what its appellant paid.
    function _abandonRound(uint256 caseId, Case storage c) private {
        c.status = Status.Decided;
        c.appealEnd = 0;
        if (c.round == 0) {
            c.verdict = INCONCLUSIVE;
        } else {
            Round storage round = _rounds[caseId][c.round];
            if (round.appellant != address(0)) _credit(round.appellant, uint256(round.fee) + round.bond);
            round.fee = 0;
            round.bond = 0;
        }
        emit CaseDecided(caseId, c.round, c.verdict, 0);
    }

    /// @dev Payers first: severity once an epoch, and on top of it every shown receipt back to its payer. Held credit is
    /// moved into the stake where that alone is short.
    function _slash(Case storage c, Shown[] calldata shown, address[] memory jurors)
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
        if (_isFirstSlash(c)) {
            order.severity = _severity(c, stake > needed ? stake - needed : 0);
            order.challenger = c.challenger;
            order.challengerShare = _parameters.challengerCap;
            order.jurors = jurors;
            order.jurorShare = _parameters.jurorCap;
        }
        needed += order.severity;
        if (needed > stake) {
            uint256 held = ESCROW.heldOf(c.owner);
            uint256 short = needed - stake;
            if (held > 0) ESCROW.slashHeld(c.owner, uint96(short < held ? short : held));
        }
        return STAKING.slash(c.owner, OPERATOR, order);
    }

    /// @dev Fees and bonds of all rounds to whom they are due; returns what nobody gets.
    function _settle(uint256 caseId, Case storage c, address[] memory payees, bool jurorsPaid)
        private
        returns (uint96 lost)
    {
        uint256 pot;
        for (uint16 r; r <= c.round; ++r) {
            Round storage round = _rounds[caseId][r];
            address funder = r == 0 ? c.challenger : round.appellant;
            bool right = r == 0 ? c.verdict == MISMATCH : c.verdict != round.appealed;
            bool feeReturns = payees.length == 0 || (c.verdict == MISMATCH && right && jurorsPaid);
            if (feeReturns) _credit(funder, round.fee);
            else pot += round.fee;
            if (right || (r == 0 && c.verdict == INCONCLUSIVE)) _credit(funder, round.bond);
            else lost += _compensate(c, round.bond);
        }
        if (pot == 0) return lost;
        uint256 each = pot / payees.length;
        for (uint256 i; i < payees.length; ++i) {
            _credit(payees[i], each);
        }
        lost += uint96(pot - each * payees.length);
    }

    /// @dev Half of a lost bond goes to whom the verdict favours; the rest, or all of it, to nobody.
    function _compensate(Case storage c, uint96 bond) private returns (uint96 lost) {
        uint96 half = c.verdict == INCONCLUSIVE ? 0 : bond / 2;
        _credit(c.verdict == MATCH ? c.owner : c.challenger, half);
        return bond - half;
    }

    function _tip(Case storage c) private {
        uint96 tip = c.tips < _parameters.tip ? c.tips : _parameters.tip;
        c.tips -= tip;
        _credit(msg.sender, tip);
    }

    function _credit(address account, uint256 amount) private {
        if (amount == 0) return;
        credit[account] += amount;
        emit Credited(account, amount);
    }
}
