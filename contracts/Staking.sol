// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

import {Ownable} from "@openzeppelin/contracts/access/Ownable.sol";
import {IERC20} from "@openzeppelin/contracts/token/ERC20/IERC20.sol";
import {SafeERC20} from "@openzeppelin/contracts/token/ERC20/utils/SafeERC20.sol";
import {Math} from "@openzeppelin/contracts/utils/math/Math.sol";
import {SafeCast} from "@openzeppelin/contracts/utils/math/SafeCast.sol";
import {ReentrancyGuardTransient} from "@openzeppelin/contracts/utils/ReentrancyGuardTransient.sol";

import {IStaking} from "./interfaces/IStaking.sol";
import {Pause} from "./base/Pause.sol";
import {SlasherList} from "./base/SlasherList.sol";
import {StakeBook} from "./base/StakeBook.sol";
import {StakingTable} from "./base/StakingTable.sol";

/// @notice See IStaking.
contract Staking is StakeBook, Pause, ReentrancyGuardTransient {
    using SafeERC20 for IERC20;
    using SafeCast for uint256;

    /// @dev Nobody's address.
    address private constant BURNED = 0x000000000000000000000000000000000000dEaD;

    /// @dev How a slash is cut: the burned `floor`, then what is `left` for refunds and the rest of the severity.
    struct Cut {
        uint256 floor;
        uint256 left;
        uint256 wanted;
        uint256 paidBack;
    }

    IERC20 private immutable ASSET;
    /// @dev Known before it is deployed. What it moves to a stake is an owner's held credit, on its way to be slashed.
    address private immutable ESCROW;

    /// @inheritdoc IStaking
    mapping(bytes32 receipt => bool) public isRefunded;
    /// @inheritdoc IStaking
    mapping(address account => uint256) public credit;

    constructor(
        IERC20 asset_,
        address escrow,
        address contractOwner,
        address guardian_,
        Parameters memory parameters_,
        address[] memory slashers
    ) StakingTable(parameters_) SlasherList(slashers) Pause(guardian_) Ownable(contractOwner) {
        ASSET = asset_;
        ESCROW = escrow;
    }

    /// @inheritdoc IStaking
    function stake(uint8 role, uint96 amount) external {
        stakeFor(msg.sender, role, amount);
    }

    /// @inheritdoc IStaking
    function stakeFor(address owner, uint8 role, uint96 amount) public nonReentrant {
        bool isHeld = msg.sender == ESCROW;
        require(isHeld || msg.sender == owner, StakingNotOwner(owner, msg.sender));
        if (!isHeld) _checkRunning();
        require(amount != 0, StakingZeroAmount());
        // Reverts for a role that does not exist.
        minimum(role);
        Stake memory s = _stakes[owner][role];
        // Held credit is there to be slashed: it makes nobody's stake younger.
        if (isHeld && s.bonded != 0) s.bonded += amount;
        else _bond(s, amount);
        _stakes[owner][role] = s;
        _list(owner, role, s.bonded);
        emit Staked(owner, role, msg.sender, amount);
        uint256 balance = ASSET.balanceOf(address(this));
        ASSET.safeTransferFrom(msg.sender, address(this), amount);
        uint256 received = ASSET.balanceOf(address(this)) - balance;
        require(received == amount, StakingTransferMismatch(amount, received));
    }

    /// @inheritdoc IStaking
    function thaw(uint8 role, uint96 amount) external {
        Stake memory s = _stakes[msg.sender][role];
        require(amount != 0, StakingZeroAmount());
        require(amount <= s.bonded, StakingInsufficient(s.bonded, amount));
        s.bonded -= amount;
        s.thawing += amount;
        s.thawEnd = (block.timestamp + THAW_PERIOD).toUint32();
        _stakes[msg.sender][role] = s;
        _list(msg.sender, role, s.bonded);
        emit ThawStarted(msg.sender, role, s.thawing, s.thawEnd);
    }

    /// @inheritdoc IStaking
    function cancelThaw(uint8 role) external {
        Stake memory s = _stakes[msg.sender][role];
        uint96 amount = s.thawing;
        require(amount != 0, StakingNothingThawing(msg.sender, role));
        // It was not at stake for juries while it thawed: it counts as bonded from now.
        _bond(s, amount);
        s.thawing = 0;
        s.thawEnd = 0;
        _stakes[msg.sender][role] = s;
        _list(msg.sender, role, s.bonded);
        emit ThawCancelled(msg.sender, role, amount);
    }

    /// @inheritdoc IStaking
    function withdraw(uint8 role) external nonReentrant returns (uint96 amount) {
        Stake memory s = _stakes[msg.sender][role];
        require(s.thawing != 0, StakingNothingThawing(msg.sender, role));
        require(block.timestamp >= s.thawEnd, StakingStillThawing(block.timestamp, s.thawEnd));
        uint96 total = s.bonded + s.thawing;
        uint96 locked = _locks[msg.sender][role].locked;
        require(locked < total, StakingLocked(total, locked));
        amount = uint96(Math.min(s.thawing, total - locked));
        _stakes[msg.sender][role].thawing = s.thawing - amount;
        emit Withdrawn(msg.sender, role, amount);
        ASSET.safeTransfer(msg.sender, amount);
    }

    /// @inheritdoc IStaking
    function withdrawCredit() external returns (uint256 amount) {
        return withdrawCreditOf(msg.sender);
    }

    /// @inheritdoc IStaking
    function withdrawCreditOf(address account) public nonReentrant returns (uint256 amount) {
        amount = credit[account];
        require(amount != 0, StakingNothingToWithdraw(account));
        credit[account] = 0;
        emit CreditWithdrawn(account, amount);
        ASSET.safeTransfer(account, amount);
    }

    /// @inheritdoc IStaking
    function slash(address owner, uint8 role, Slash calldata order)
        external
        onlySlasher
        nonReentrant
        returns (uint96 severity, uint96 refunded, uint96 burned)
    {
        if (wasSlasher(msg.sender)) return (0, 0, 0);
        uint256[] memory refunds = _freshRefunds(order);
        Cut memory cut = _cut(order.severity, slashable(owner, role), refunds);
        refunded = _refund(order, refunds, cut);
        severity = uint96(cut.floor + cut.left - cut.paidBack);
        uint96 rewarded = _reward(order, severity, cut.left - cut.paidBack);
        burned = uint96(cut.floor + cut.left) - refunded - rewarded;
        _take(owner, role, cut.floor + cut.left);
        emit Slashed(owner, role, msg.sender, severity, refunded, rewarded, burned);
        // An asset that refuses to be burned must not save a stake from its slash: then it stays here, as nobody's.
        if (burned != 0 && !ASSET.trySafeTransfer(BURNED, burned)) {
            credit[BURNED] += burned;
            emit BurnRefused(burned);
        }
    }

    /// @inheritdoc IStaking
    function asset() external view returns (address) {
        return address(ASSET);
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
}
