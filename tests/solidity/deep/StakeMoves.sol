// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

import {IPause} from "../../../contracts/interfaces/IPause.sol";
import {IStaking} from "../../../contracts/interfaces/IStaking.sol";
import {OPERATOR, VERIFIER} from "../../../contracts/types/Role.sol";
import {Ghosts} from "./Ghosts.sol";
import {amountUpTo} from "./Vm.sol";

/// @notice Stakers' and slashers' moves.
abstract contract StakeMoves is Ghosts {
    function stake(uint256 who, uint256 onto, uint256 amount, bool verifies) external {
        uint96 value = uint96(amountUpTo(amount, 300 * DOLLAR));
        uint8 role = verifies ? VERIFIER : OPERATOR;
        address owner = _owner(onto % 2);
        bytes4 refusal;
        if ((who ^ onto) % 2 != 0) refusal = IStaking.StakingNotOwner.selector;
        else if (_paused()) refusal = IPause.PauseInForce.selector;
        else if (value == 0) refusal = IStaking.StakingZeroAmount.selector;
        _move(_owner(who % 2), address(staking), abi.encodeCall(IStaking.stakeFor, (owner, role, value)), refusal);
        if (refusal == bytes4(0)) _gStake[owner][role].bonded += value;
    }

    function thawStake(uint256 who, uint256 amount, bool verifies) external {
        uint8 role = verifies ? VERIFIER : OPERATOR;
        GhostStake storage s = _gStake[_owner(who % 2)][role];
        uint256 value = amount % 7 == 0 ? s.bonded + amount / 7 % 2 : amountUpTo(amount, 600 * DOLLAR);
        bytes4 refusal = value == 0
            ? IStaking.StakingZeroAmount.selector
            : value > s.bonded ? IStaking.StakingInsufficient.selector : bytes4(0);
        _move(_owner(who % 2), address(staking), abi.encodeCall(IStaking.thaw, (role, uint96(value))), refusal);
        if (refusal != bytes4(0)) return;
        s.bonded -= value;
        s.thawing += value;
        s.thawEnd = block.timestamp + 21 days;
    }

    function cancelStakeThaw(uint256 who, bool verifies) external {
        uint8 role = verifies ? VERIFIER : OPERATOR;
        GhostStake storage s = _gStake[_owner(who % 2)][role];
        bytes4 refusal = s.thawing == 0 ? IStaking.StakingNothingThawing.selector : bytes4(0);
        _move(_owner(who % 2), address(staking), abi.encodeCall(IStaking.cancelThaw, (role)), refusal);
        if (refusal != bytes4(0)) return;
        s.bonded += s.thawing;
        (s.thawing, s.thawEnd) = (0, 0);
    }

    function withdrawStake(uint256 who, bool verifies) external {
        uint8 role = verifies ? VERIFIER : OPERATOR;
        address owner = _owner(who % 2);
        GhostStake storage s = _gStake[owner][role];
        uint256 total = s.bonded + s.thawing;
        bytes4 refusal;
        if (s.thawing == 0) refusal = IStaking.StakingNothingThawing.selector;
        else if (block.timestamp < s.thawEnd) refusal = IStaking.StakingStillThawing.selector;
        else if (s.locked >= total) refusal = IStaking.StakingLocked.selector;
        uint256 before = asset.balanceOf(owner);
        _move(owner, address(staking), abi.encodeCall(IStaking.withdraw, (role)), refusal);
        uint256 due = refusal == bytes4(0) ? _min(s.thawing, total - s.locked) : 0;
        require(asset.balanceOf(owner) == before + due, "a stake paid something else than was free");
        s.thawing -= due;
    }

    function lockStake(uint256 who, uint256 amount, uint256 by) external {
        uint96 value = uint96(amountUpTo(amount, 800 * DOLLAR));
        bool allowed = by % 4 != 0;
        _move(
            allowed ? SLASHER : _owner(who % 2),
            address(staking),
            abi.encodeCall(IStaking.lock, (_owner(who % 2), OPERATOR, value)),
            allowed ? bytes4(0) : IStaking.StakingNotSlasher.selector
        );
        if (!allowed) return;
        _gStake[_owner(who % 2)][OPERATOR].locks += 1;
        _gStake[_owner(who % 2)][OPERATOR].locked += value;
    }

    function unlockStake(uint256 who, uint256 amount, uint256 by) external {
        GhostStake storage s = _gStake[_owner(who % 2)][OPERATOR];
        // Mostly what is locked or part of it, sometimes too much.
        uint256 value = amountUpTo(amount, s.locks == 1 ? s.locked : s.locked / 2 + DOLLAR);
        if (s.locks == 1) value = s.locked;
        bool allowed = by % 4 != 0;
        bytes4 refusal;
        if (!allowed) refusal = IStaking.StakingNotSlasher.selector;
        else if (s.locks == 0 || s.locked < value) refusal = IStaking.StakingNotLocked.selector;
        bytes memory data = abi.encodeCall(IStaking.unlock, (_owner(who % 2), OPERATOR, uint96(value)));
        _move(allowed ? SLASHER : _payer(0), address(staking), data, refusal);
        if (refusal != bytes4(0)) return;
        s.locks -= 1;
        s.locked -= value;
    }

    /// @param receipts Three chances for a receipt to be among the shown ones, again and again.
    function slash(uint256 who, uint256 severity, uint256[2] memory refunds, uint256 receipts, uint256 by) external {
        address owner = _owner(who % 2);
        IStaking.Slash memory order = _order(severity, refunds, receipts, by);
        bool allowed = by % 4 != 0;
        uint256 before = asset.balanceOf(BURNED);
        bytes memory answer = _move(
            allowed ? SLASHER : owner,
            address(staking),
            abi.encodeCall(IStaking.slash, (owner, OPERATOR, order)),
            allowed ? bytes4(0) : IStaking.StakingNotSlasher.selector
        );
        if (!allowed) return;
        (uint96 taken, uint96 refunded, uint96 burned) = abi.decode(answer, (uint96, uint96, uint96));
        require(asset.balanceOf(BURNED) == before + burned, "burned something else than it says");
        _gBurned += burned;
        uint256 available = _slashable(owner);
        uint256 all = _checkCut(order, available, taken, refunded, burned);
        GhostStake storage s = _gStake[owner][OPERATOR];
        uint256 fromThawing = _min(all, s.thawing);
        s.thawing -= fromThawing;
        s.bonded -= all - fromThawing;
    }

    function withdrawStakingCredit(uint256 who, bool isPayer) external {
        address party = isPayer ? _payer(who % 2) : _owner(who % 2);
        uint256 due = _gStakingCredit[party];
        uint256 before = asset.balanceOf(party);
        bytes4 refusal = due == 0 ? IStaking.StakingNothingToWithdraw.selector : bytes4(0);
        _move(party, address(staking), abi.encodeCall(IStaking.withdrawCredit, ()), refusal);
        require(asset.balanceOf(party) == before + due, "a credit paid something else than was due");
        _gStakingCredit[party] = 0;
    }

    function _order(uint256 severity, uint256[2] memory refunds, uint256 receipts, uint256 by)
        private
        view
        returns (IStaking.Slash memory order)
    {
        order.severity = uint96(amountUpTo(severity, 900 * DOLLAR));
        order.challenger = by & 16 == 0 ? address(0) : _payer(by >> 5 & 1);
        order.challengerShare = uint96(amountUpTo(by >> 16, 400 * DOLLAR));
        order.jurors = new address[](by >> 6 & 3);
        for (uint256 i; i < order.jurors.length; ++i) {
            order.jurors[i] = i == 0 ? _owner(0) : _payer(i - 1);
        }
        order.jurorShare = uint96(amountUpTo(by >> 48, 100 * DOLLAR));
        order.receipts = new bytes32[](2);
        order.payers = new address[](2);
        order.refunds = new uint96[](2);
        for (uint256 i; i < 2; ++i) {
            order.receipts[i] = bytes32((receipts >> (8 * i)) % 16);
            order.payers[i] = _payer(i);
            order.refunds[i] = uint96(amountUpTo(refunds[i], 200 * DOLLAR));
        }
    }

    /// @dev The rules of a slash, not its formula, except where the stake covers everything.
    function _checkCut(IStaking.Slash memory order, uint256 available, uint256 taken, uint256 refunded, uint256 burned)
        private
        returns (uint256 all)
    {
        uint256 wanted;
        uint256[2] memory credits;
        for (uint256 i; i < 2; ++i) {
            credits[i] = _gStakingCredit[order.payers[i]];
            bool again = _gRefunded[order.receipts[i]];
            _gRefunded[order.receipts[i]] = true;
            wanted += again ? 0 : order.refunds[i];
            if (again) order.refunds[i] = 0;
        }
        bool covered = order.severity + wanted <= available;
        all = _min(available, order.severity + wanted);
        // Refunds that are cut are rounded down, and what that leaves is burned.
        require(taken + refunded <= all && taken + refunded + 1 >= all, "took more or less than is due");
        require(taken <= order.severity && refunded <= wanted, "a part exceeds what was asked");
        require(2 * burned >= taken && burned + refunded <= all, "less than half of a severity is burned");
        if (covered) require(taken == order.severity && refunded == wanted, "a full stake did not pay in full");
        uint256 half = (uint256(order.severity) + 1) / 2;
        if (!covered && available > half) {
            uint256 rest = order.severity - half + wanted;
            require(refunded * rest <= (available - half) * wanted, "refunds got more than their part");
            require((refunded + 2) * rest >= (available - half) * wanted, "refunds got less than their part");
        }
        for (uint256 i; i < 2; ++i) {
            uint256 due = wanted == 0 ? 0 : order.refunds[i];
            // Short funds cut all refunds alike, rounded down.
            if (!covered && due != 0) {
                due = staking.credit(order.payers[i]) - credits[i] - _rewards(order, taken, i);
            }
            _gStakingCredit[order.payers[i]] += due;
        }
        uint256 paid = _payRewards(order, taken);
        require(paid + burned + refunded == all, "a slash is not the sum of its parts");
    }

    function _payRewards(IStaking.Slash memory order, uint256 taken) private returns (uint256) {
        (uint256 challenger, uint256 juror) = _shares(order, taken);
        if (challenger != 0) _gStakingCredit[order.challenger] += challenger;
        for (uint256 i; i < order.jurors.length; ++i) {
            _gStakingCredit[order.jurors[i]] += juror;
        }
        return challenger + juror * order.jurors.length;
    }

    /// @dev What of the rewards is the i-th payer's.
    function _rewards(IStaking.Slash memory order, uint256 taken, uint256 payer) private pure returns (uint256 sum) {
        (uint256 challenger, uint256 juror) = _shares(order, taken);
        if (order.challenger == order.payers[payer]) sum += challenger;
        for (uint256 i; i < order.jurors.length; ++i) {
            if (order.jurors[i] == order.payers[payer]) sum += juror;
        }
    }

    /// @dev When funds are short, what is left beside the burned half is all that rewards can take.
    function _shares(IStaking.Slash memory order, uint256 taken)
        private
        pure
        returns (uint256 challenger, uint256 juror)
    {
        uint256 half = _min(taken, (uint256(order.severity) + 1) / 2);
        if (order.challenger != address(0)) {
            challenger = _min(_min(order.challengerShare, taken * 300_000 / 1_000_000), taken - half);
        }
        uint256 count = order.jurors.length;
        if (count == 0) return (challenger, 0);
        juror = _min(order.jurorShare, _min(taken * 200_000 / 1_000_000, taken - half - challenger) / count);
    }
}
