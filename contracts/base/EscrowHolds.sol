// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

import {IERC20} from "@openzeppelin/contracts/token/ERC20/IERC20.sol";
import {SafeERC20} from "@openzeppelin/contracts/token/ERC20/utils/SafeERC20.sol";
import {Math} from "@openzeppelin/contracts/utils/math/Math.sol";

import {EscrowState} from "./EscrowState.sol";
import {IEscrow} from "../interfaces/IEscrow.sol";
import {OPERATOR} from "../types/Role.sol";

/// @notice The owners' side: credit, the exposure window, what it holds back, and the audit pool.
abstract contract EscrowHolds is EscrowState {
    using SafeERC20 for IERC20;

    /// @dev Entries of held credit that one call looks at.
    uint256 private constant RELEASE_LIMIT = 32;
    /// @dev What is held within this part of the held period after an entry's first money joins that entry, so that a
    /// slash walks a couple of dozen entries, however many tiny collects there were.
    uint256 private constant HELD_PARTS = 21;

    /// @dev All that a collect within the cap and the half window writes of an owner: one slot.
    /// @param credit What the account may withdraw.
    /// @param current What it was paid in the half window `period`.
    /// @param holds Whether its queue of held credit must be looked at.
    struct Income {
        uint96 credit;
        uint96 current;
        uint40 period;
        bool holds;
    }

    /// @dev What was paid in the two half windows before `Income.period`; written when a half window begins.
    struct Earlier {
        uint96 previous;
        uint96 oldest;
    }

    /// @dev Both, as of now: the three half windows span the window, and up to half of one more.
    struct Window {
        Income income;
        Earlier earlier;
        bool rolled;
    }

    struct Queue {
        uint96 total;
        uint64 head;
        uint64 tail;
    }

    struct Held {
        uint96 amount;
        uint40 time;
    }

    mapping(address owner => Income) private _incomes;
    mapping(address owner => Earlier) private _earlier;
    mapping(address owner => Queue) private _queues;
    mapping(address owner => mapping(uint64 index => Held)) private _held;
    /// @inheritdoc IEscrow
    uint96 public auditPool;
    /// @inheritdoc IEscrow
    /// @dev Here because each collect writes both: one slot.
    uint64 public commitCount;

    /// @inheritdoc IEscrow
    function releaseHeld(address owner) external returns (uint96 amount) {
        Window memory window = _windowNow(owner);
        require(window.income.holds, EscrowNothingHeld(owner));
        amount = _release(owner, window, STAKING.exposureCap(owner), RELEASE_LIMIT);
        window.income.credit += amount;
        _store(owner, window);
    }

    /// @inheritdoc IEscrow
    function slashHeld(address owner, uint96 amount) external nonReentrant returns (uint96 moved) {
        if (_isRemoved()) return 0;
        Queue storage queue = _queues[owner];
        moved = uint96(Math.min(amount, queue.total));
        if (moved == 0) return 0;
        uint96 left = moved;
        while (left != 0) {
            Held storage entry = _held[owner][queue.head];
            uint96 part = uint96(Math.min(left, entry.amount));
            entry.amount -= part;
            left -= part;
            if (entry.amount == 0) queue.head += 1;
        }
        queue.total -= moved;
        if (queue.total == 0) _incomes[owner].holds = false;
        emit HeldSlashed(owner, msg.sender, moved);
        ASSET.forceApprove(address(STAKING), moved);
        STAKING.stakeFor(owner, OPERATOR, moved);
    }

    /// @inheritdoc IEscrow
    function fundAuditPool(uint96 amount) external nonReentrant {
        require(amount != 0, EscrowZeroAmount());
        auditPool += amount;
        emit AuditPoolFunded(msg.sender, amount);
        _pull(msg.sender, amount);
    }

    /// @inheritdoc IEscrow
    function payFromAuditPool(address to, uint96 amount) external returns (uint96 paid) {
        if (_isRemoved()) return 0;
        paid = uint96(Math.min(amount, auditPool));
        auditPool -= paid;
        _incomes[to].credit += paid;
        emit AuditPaid(msg.sender, to, paid);
    }

    /// @inheritdoc IEscrow
    function withdrawCredit() external returns (uint256 amount) {
        return withdrawCreditOf(msg.sender);
    }

    /// @inheritdoc IEscrow
    function withdrawCreditOf(address account_) public nonReentrant returns (uint256 amount) {
        amount = _incomes[account_].credit;
        require(amount != 0, EscrowNothingToWithdraw(account_));
        _incomes[account_].credit = 0;
        emit CreditWithdrawn(account_, amount);
        _push(account_, amount);
    }

    /// @inheritdoc IEscrow
    function credit(address account_) external view returns (uint256) {
        return _incomes[account_].credit;
    }

    /// @inheritdoc IEscrow
    function heldOf(address owner) external view returns (uint96) {
        return _queues[owner].total;
    }

    /// @inheritdoc IEscrow
    function exposure(address owner) external view returns (uint96) {
        return _sum(_windowNow(owner));
    }

    /// @inheritdoc IEscrow
    function freeExposure(address owner) external view returns (uint96) {
        uint96 free = _free(_windowNow(owner), STAKING.exposureCap(owner));
        uint96 ahead = _queues[owner].total;
        return free > ahead ? free - ahead : 0;
    }

    /// @dev Counts a commit and what it leaves for verifiers.
    function _nextCommit(uint96 auditShare) internal returns (uint64 commitId) {
        (uint96 pool, uint64 count) = (auditPool, commitCount);
        commitId = count + 1;
        (auditPool, commitCount) = (pool + auditShare, commitId);
    }

    /// @dev Credits an owner as far as its exposure allows and holds the rest, behind what is held already.
    function _payOwner(address owner, uint96 amount) internal returns (uint96 held) {
        Window memory window = _windowNow(owner);
        Income memory income = window.income;
        uint96 cap = STAKING.exposureCap(owner);
        if (income.holds) income.credit += _release(owner, window, cap, RELEASE_LIMIT);
        uint96 direct = income.holds ? 0 : uint96(Math.min(amount, _free(window, cap)));
        income.current += direct;
        income.credit += direct;
        held = amount - direct;
        if (held != 0) {
            income.holds = true;
            _hold(owner, held);
        }
        _store(owner, window);
    }

    /// @dev Joins the last entry while that is young, and leaves with its first money: nothing waits too long for it.
    function _hold(address owner, uint96 amount) private {
        Queue storage queue = _queues[owner];
        (uint64 head, uint64 tail) = (queue.head, queue.tail);
        uint256 part = Math.ceilDiv(HELD_PERIOD, HELD_PARTS);
        bool joins = head < tail && block.timestamp < _held[owner][tail - 1].time + part;
        if (joins) {
            _held[owner][tail - 1].amount += amount;
        } else {
            _held[owner][tail] = Held(amount, uint40(block.timestamp));
            queue.tail = tail + 1;
        }
        queue.total += amount;
    }

    /// @dev Takes from the head of the queue; entries of full age do not count as exposure. Updates `window`.
    function _release(address owner, Window memory window, uint96 cap, uint256 limit) private returns (uint96 amount) {
        Queue storage queue = _queues[owner];
        (,,, uint16 locks,) = STAKING.stakeOf(owner, OPERATOR);
        for (uint256 i; i < limit && queue.head < queue.tail; ++i) {
            Held storage entry = _held[owner][queue.head];
            bool aged = locks == 0 && block.timestamp >= uint256(entry.time) + HELD_PERIOD;
            uint96 part = aged ? entry.amount : uint96(Math.min(entry.amount, _free(window, cap)));
            if (!aged) window.income.current += part;
            amount += part;
            entry.amount -= part;
            if (entry.amount != 0) break;
            queue.head += 1;
        }
        queue.total -= amount;
        window.income.holds = queue.total != 0;
        if (amount != 0) emit HeldReleased(owner, amount);
    }

    /// @dev Slashers only. What a removed one began must end: it fails not, and moves nothing.
    function _isRemoved() private view returns (bool) {
        if (STAKING.wasSlasher(msg.sender)) return true;
        require(STAKING.isSlasher(msg.sender), EscrowNotSlasher(msg.sender));
        return false;
    }

    function _windowNow(address owner) private view returns (Window memory window) {
        Income memory income = window.income = _incomes[owner];
        Earlier memory earlier = window.earlier = _earlier[owner];
        uint40 period = uint40(block.timestamp / (EXPOSURE_WINDOW / 2));
        uint40 passed = period - income.period;
        if (passed == 0) return window;
        earlier.oldest = passed == 1 ? earlier.previous : passed == 2 ? income.current : 0;
        earlier.previous = passed == 1 ? income.current : 0;
        income.current = 0;
        income.period = period;
        window.rolled = true;
    }

    function _store(address owner, Window memory window) private {
        _incomes[owner] = window.income;
        if (window.rolled) _earlier[owner] = window.earlier;
    }

    function _sum(Window memory window) private pure returns (uint96) {
        return window.income.current + window.earlier.previous + window.earlier.oldest;
    }

    function _free(Window memory window, uint96 cap) private pure returns (uint96) {
        uint96 used = _sum(window);
        return cap > used ? cap - used : 0;
    }
}
