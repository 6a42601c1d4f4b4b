// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

import {Ownable} from "@openzeppelin/contracts/access/Ownable.sol";
import {IERC20} from "@openzeppelin/contracts/token/ERC20/IERC20.sol";
import {SafeERC20} from "@openzeppelin/contracts/token/ERC20/utils/SafeERC20.sol";
import {Math} from "@openzeppelin/contracts/utils/math/Math.sol";
import {SafeCast} from "@openzeppelin/contracts/utils/math/SafeCast.sol";
import {EnumerableSet} from "@openzeppelin/contracts/utils/structs/EnumerableSet.sol";
import {ReentrancyGuardTransient} from "@openzeppelin/contracts/utils/ReentrancyGuardTransient.sol";

import {IStaking} from "./interfaces/IStaking.sol";
import {Pause} from "./base/Pause.sol";
import {SlasherList} from "./base/SlasherList.sol";
import {StakingTable} from "./base/StakingTable.sol";
import {Offence} from "./types/Offence.sol";
import {OPERATOR} from "./types/Role.sol";

/// @notice See IStaking.
contract Staking is SlasherList, Pause, ReentrancyGuardTransient {
    using SafeERC20 for IERC20;
    using SafeCast for uint256;
    using EnumerableSet for EnumerableSet.AddressSet;

    /// @dev Nobody's address.
    address private constant BURNED = 0x000000000000000000000000000000000000dEaD;

    struct Stake {
        uint96 bonded;
        uint96 thawing;
        uint40 thawEnd;
        uint16 locks;
        uint96 locked;
        uint40 since;
    }

    /// @dev How a slash is cut: the burned `floor`, then what is `left` for refunds and the rest of the severity.
    struct Cut {
        uint256 floor;
        uint256 left;
        uint256 wanted;
        uint256 paidBack;
    }

    IERC20 private immutable ASSET;

    mapping(address owner => mapping(uint8 role => Stake)) private _stakes;
    mapping(uint8 role => EnumerableSet.AddressSet) private _active;
    /// @inheritdoc IStaking
    mapping(bytes32 receipt => bool) public isRefunded;
    /// @inheritdoc IStaking
    mapping(address account => uint256) public credit;

    constructor(
        IERC20 asset_,
        address contractOwner,
        address guardian_,
        Parameters memory parameters_,
        address[] memory slashers
    ) StakingTable(parameters_) SlasherList(slashers) Pause(guardian_) Ownable(contractOwner) {
        ASSET = asset_;
    }

    /// @inheritdoc IStaking
    function stake(uint8 role, uint96 amount) external {
        stakeFor(msg.sender, role, amount);
    }

    /// @inheritdoc IStaking
    function stakeFor(address owner, uint8 role, uint96 amount) public nonReentrant whenRunning {
        require(owner != address(0), StakingZeroAddress());
        require(amount != 0, StakingZeroAmount());
        Stake storage s = _stakes[owner][role];
        uint96 bonded = s.bonded + amount;
        s.since = Math.ceilDiv(uint256(s.since) * s.bonded + block.timestamp * amount, bonded).toUint40();
        s.bonded = bonded;
        _updateActive(owner, role, bonded);
        emit Staked(owner, role, msg.sender, amount);
        uint256 balance = ASSET.balanceOf(address(this));
        ASSET.safeTransferFrom(msg.sender, address(this), amount);
        uint256 received = ASSET.balanceOf(address(this)) - balance;
        require(received == amount, StakingTransferMismatch(amount, received));
    }

    /// @inheritdoc IStaking
    function thaw(uint8 role, uint96 amount) external {
        Stake storage s = _stakes[msg.sender][role];
        require(amount != 0, StakingZeroAmount());
        require(amount <= s.bonded, StakingInsufficient(s.bonded, amount));
        s.bonded -= amount;
        s.thawing += amount;
        s.thawEnd = uint40(block.timestamp) + THAW_PERIOD;
        _updateActive(msg.sender, role, s.bonded);
        emit ThawStarted(msg.sender, role, s.thawing, s.thawEnd);
    }

    /// @inheritdoc IStaking
    function cancelThaw(uint8 role) external {
        Stake storage s = _stakes[msg.sender][role];
        uint96 amount = s.thawing;
        require(amount != 0, StakingNothingThawing(msg.sender, role));
        uint96 bonded = s.bonded + amount;
        // It was not at stake for juries while it thawed: it counts as bonded from now.
        s.since = Math.ceilDiv(uint256(s.since) * s.bonded + block.timestamp * amount, bonded).toUint40();
        s.bonded = bonded;
        s.thawing = 0;
        s.thawEnd = 0;
        _updateActive(msg.sender, role, bonded);
        emit ThawCancelled(msg.sender, role, amount);
    }

    /// @inheritdoc IStaking
    function withdraw(uint8 role) external nonReentrant returns (uint96 amount) {
        Stake storage s = _stakes[msg.sender][role];
        require(s.thawing != 0, StakingNothingThawing(msg.sender, role));
        require(block.timestamp >= s.thawEnd, StakingStillThawing(block.timestamp, s.thawEnd));
        uint96 total = s.bonded + s.thawing;
        require(s.locked < total, StakingLocked(total, s.locked));
        amount = uint96(Math.min(s.thawing, total - s.locked));
        s.thawing -= amount;
        emit Withdrawn(msg.sender, role, amount);
        ASSET.safeTransfer(msg.sender, amount);
    }

    /// @inheritdoc IStaking
    function withdrawCredit() external nonReentrant returns (uint256 amount) {
        amount = credit[msg.sender];
        require(amount != 0, StakingNothingToWithdraw(msg.sender));
        credit[msg.sender] = 0;
        emit CreditWithdrawn(msg.sender, amount);
        ASSET.safeTransfer(msg.sender, amount);
    }

    /// @inheritdoc IStaking
    function lock(address owner, uint8 role, uint96 amount) external onlySlasher {
        Stake storage s = _stakes[owner][role];
        s.locks += 1;
        s.locked += amount;
        emit Locked(owner, role, msg.sender, amount);
    }

    /// @inheritdoc IStaking
    function unlock(address owner, uint8 role, uint96 amount) external onlySlasher {
        Stake storage s = _stakes[owner][role];
        require(s.locks != 0 && s.locked >= amount, StakingNotLocked(s.locked, amount));
        s.locks -= 1;
        s.locked -= amount;
        emit Unlocked(owner, role, msg.sender, amount);
    }

    /// @inheritdoc IStaking
    function slash(address owner, uint8 role, Slash calldata order)
        external
        onlySlasher
        nonReentrant
        returns (uint96 severity, uint96 refunded, uint96 burned)
    {
        uint256[] memory refunds = _freshRefunds(order);
        Cut memory cut = _cut(order.severity, slashable(owner, role), refunds);
        refunded = _refund(order, refunds, cut);
        severity = uint96(cut.floor + cut.left - cut.paidBack);
        uint96 rewarded = _reward(order, severity, cut.left - cut.paidBack);
        burned = uint96(cut.floor + cut.left) - refunded - rewarded;
        _take(owner, role, cut.floor + cut.left);
        emit Slashed(owner, role, msg.sender, severity, refunded, rewarded, burned);
        if (burned != 0) ASSET.safeTransfer(BURNED, burned);
    }

    /// @inheritdoc IStaking
    function asset() external view returns (address) {
        return address(ASSET);
    }

    /// @inheritdoc IStaking
    function stakeOf(address owner, uint8 role)
        external
        view
        returns (uint96 bonded, uint96 thawing, uint40 thawEnd, uint16 locks, uint40 since)
    {
        Stake storage s = _stakes[owner][role];
        return (s.bonded, s.thawing, s.thawEnd, s.locks, s.since);
    }

    /// @inheritdoc IStaking
    function slashable(address owner, uint8 role) public view returns (uint96) {
        Stake storage s = _stakes[owner][role];
        return s.bonded + s.thawing;
    }

    /// @inheritdoc IStaking
    function lockedOf(address owner, uint8 role) external view returns (uint96) {
        return _stakes[owner][role].locked;
    }

    /// @inheritdoc IStaking
    function freeStake(address owner, uint8 role) public view returns (uint96) {
        Stake storage s = _stakes[owner][role];
        return s.bonded > s.locked ? s.bonded - s.locked : 0;
    }

    /// @inheritdoc IStaking
    function exposureCap(address owner) external view returns (uint96) {
        return uint96(Math.mulDiv(freeStake(owner, OPERATOR), EXPOSURE_PPM, PPM));
    }

    /// @inheritdoc IStaking
    function isActive(address owner, uint8 role) external view returns (bool) {
        return _active[role].contains(owner);
    }

    /// @inheritdoc IStaking
    function owners(uint8 role) external view returns (address[] memory) {
        return _active[role].values();
    }

    /// @inheritdoc IStaking
    function severityOf(address owner, uint8 role, Offence offence) external view returns (uint96) {
        return uint96(Math.mulDiv(slashable(owner, role), severityPpm(offence), PPM, Math.Rounding.Ceil));
    }

    /// @dev Refunds of receipts that were not refunded before; marks them.
    function _freshRefunds(Slash calldata order) private returns (uint256[] memory refunds) {
        uint256 count = order.receipts.length;
        require(
            count == order.payers.length && count == order.refunds.length,
            StakingLengthMismatch(count, order.payers.length, order.refunds.length)
        );
        refunds = new uint256[](count);
        for (uint256 i; i < count; ++i) {
            if (isRefunded[order.receipts[i]]) continue;
            isRefunded[order.receipts[i]] = true;
            refunds[i] = order.refunds[i];
        }
    }

    /// @dev The burned half comes first: were it cut with the rest, a friend's huge jobs would save a stake from itself.
    function _cut(uint256 severity, uint256 available, uint256[] memory refunds) private pure returns (Cut memory cut) {
        for (uint256 i; i < refunds.length; ++i) {
            cut.wanted += refunds[i];
        }
        uint256 half = Math.ceilDiv(severity, 2);
        uint256 rest = severity - half + cut.wanted;
        cut.floor = Math.min(available, half);
        cut.left = Math.min(available - cut.floor, rest);
        cut.paidBack = rest == 0 ? 0 : Math.mulDiv(cut.left, cut.wanted, rest);
    }

    /// @dev Credits each payer with its part of what is paid back, rounded down.
    function _refund(Slash calldata order, uint256[] memory refunds, Cut memory cut) private returns (uint96) {
        uint256 sum;
        for (uint256 i; i < refunds.length; ++i) {
            if (refunds[i] == 0) continue;
            uint256 amount = Math.mulDiv(cut.paidBack, refunds[i], cut.wanted);
            credit[order.payers[i]] += amount;
            sum += amount;
            emit Refunded(order.receipts[i], order.payers[i], uint96(amount));
        }
        return uint96(sum);
    }

    /// @dev Credits challenger and jurors with their capped shares of `severity`, and never more than `limit`.
    function _reward(Slash calldata order, uint256 severity, uint256 limit) private returns (uint96) {
        uint256 challengerPart;
        if (order.challenger != address(0)) {
            challengerPart = Math.min(order.challengerShare, Math.mulDiv(severity, CHALLENGER_CAP_PPM, PPM));
            challengerPart = Math.min(challengerPart, limit);
            _creditReward(order.challenger, challengerPart);
        }
        uint256 count = order.jurors.length;
        if (count == 0) return uint96(challengerPart);
        uint256 cap = Math.min(Math.mulDiv(severity, JURORS_CAP_PPM, PPM), limit - challengerPart);
        uint256 jurorPart = Math.min(order.jurorShare, cap / count);
        for (uint256 i; i < count; ++i) {
            _creditReward(order.jurors[i], jurorPart);
        }
        return uint96(challengerPart + jurorPart * count);
    }

    function _creditReward(address account, uint256 amount) private {
        if (amount == 0) return;
        credit[account] += amount;
        emit Rewarded(account, uint96(amount));
    }

    /// @dev Takes from thawing stake first: what is on its way out must not outlive what stays.
    function _take(address owner, uint8 role, uint256 amount) private {
        Stake storage s = _stakes[owner][role];
        uint96 fromThawing = uint96(Math.min(amount, s.thawing));
        s.thawing -= fromThawing;
        s.bonded -= uint96(amount) - fromThawing;
        _updateActive(owner, role, s.bonded);
    }

    function _updateActive(address owner, uint8 role, uint96 bonded) private {
        if (bonded != 0 && bonded >= minimum(role)) _active[role].add(owner);
        else _active[role].remove(owner);
    }
}
