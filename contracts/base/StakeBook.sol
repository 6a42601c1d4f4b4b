// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

import {Math} from "@openzeppelin/contracts/utils/math/Math.sol";
import {SafeCast} from "@openzeppelin/contracts/utils/math/SafeCast.sol";
import {EnumerableSet} from "@openzeppelin/contracts/utils/structs/EnumerableSet.sol";

import {SlasherList} from "./SlasherList.sol";
import {IStaking} from "../interfaces/IStaking.sol";
import {Offence} from "../types/Offence.sol";
import {OPERATOR, VERIFIER} from "../types/Role.sol";

/// @notice What each owner has at stake in each role, and what open cases keep of it.
abstract contract StakeBook is SlasherList {
    using SafeCast for uint256;
    using EnumerableSet for EnumerableSet.AddressSet;

    /// @dev One slot: staking, thawing and slashing touch no other.
    struct Stake {
        uint96 bonded;
        uint96 thawing;
        uint32 thawEnd;
        uint32 since;
    }

    /// @dev What cases add and take away, and a withdrawal reads. Jurors' duties count in `locked` alone.
    struct Locks {
        uint96 locked;
        uint16 count;
    }

    mapping(address owner => mapping(uint8 role => Stake)) internal _stakes;
    mapping(address owner => mapping(uint8 role => Locks)) internal _locks;
    mapping(uint8 role => EnumerableSet.AddressSet) private _listed;

    /// @inheritdoc IStaking
    function lock(address owner, uint8 role, uint96 amount) external onlySlasher {
        // A case opened after the removal would end in unlocking what others locked.
        require(!wasSlasher(msg.sender), StakingNotSlasher(msg.sender));
        Locks storage l = _locks[owner][role];
        l.count += 1;
        l.locked += amount;
        emit Locked(owner, role, msg.sender, amount);
    }

    /// @inheritdoc IStaking
    function unlock(address owner, uint8 role, uint96 amount) external onlySlasher {
        Locks storage l = _locks[owner][role];
        (uint96 locked, uint16 count) = (l.locked, l.count);
        if (count == 0 || locked < amount) {
            // A removed slasher ends locks that it came too late to make, and leaves less of the others'.
            require(_hasRemoved, StakingNotLocked(locked, amount));
            amount = uint96(Math.min(amount, locked));
        }
        l.count = count == 0 ? 0 : count - 1;
        l.locked = locked - amount;
        emit Unlocked(owner, role, msg.sender, amount);
    }

    /// @inheritdoc IStaking
    function lockDuty(address juror, uint8 role, uint96 amount) external onlySlasher {
        if (wasSlasher(msg.sender)) return;
        _locks[juror][role].locked += amount;
        emit Locked(juror, role, msg.sender, amount);
    }

    /// @inheritdoc IStaking
    function unlockDuty(address juror, uint8 role, uint96 amount) external onlySlasher {
        Locks storage l = _locks[juror][role];
        uint96 locked = l.locked;
        if (locked < amount) {
            require(_hasRemoved, StakingNotLocked(locked, amount));
            amount = locked;
        }
        l.locked = locked - amount;
        emit Unlocked(juror, role, msg.sender, amount);
    }

    /// @inheritdoc IStaking
    function stakeOf(address owner, uint8 role)
        external
        view
        returns (uint96 bonded, uint96 thawing, uint40 thawEnd, uint16 locks, uint40 since)
    {
        Stake storage s = _stakes[owner][role];
        return (s.bonded, s.thawing, s.thawEnd, _locks[owner][role].count, s.since);
    }

    /// @inheritdoc IStaking
    function slashable(address owner, uint8 role) public view returns (uint96) {
        Stake storage s = _stakes[owner][role];
        return s.bonded + s.thawing;
    }

    /// @inheritdoc IStaking
    function lockedOf(address owner, uint8 role) external view returns (uint96) {
        return _locks[owner][role].locked;
    }

    /// @inheritdoc IStaking
    function freeStake(address owner, uint8 role) public view returns (uint96) {
        uint96 bonded = _stakes[owner][role].bonded;
        uint96 locked = _locks[owner][role].locked;
        return bonded > locked ? bonded - locked : 0;
    }

    /// @inheritdoc IStaking
    function exposureCap(address owner) external view returns (uint96) {
        return uint96(Math.mulDiv(freeStake(owner, OPERATOR), EXPOSURE_PPM, PPM));
    }

    /// @inheritdoc IStaking
    function isActive(address owner, uint8 role) external view returns (bool) {
        uint96 bonded = _stakes[owner][role].bonded;
        return bonded != 0 && bonded >= minimum(role);
    }

    /// @inheritdoc IStaking
    function owners(uint8 role) external view returns (address[] memory) {
        return _listed[role].values();
    }

    /// @inheritdoc IStaking
    function severityOf(address owner, uint8 role, Offence offence) external view returns (uint96) {
        return uint96(Math.mulDiv(slashable(owner, role), severityPpm(offence), PPM, Math.Rounding.Ceil));
    }

    /// @dev Bonds `amount` more. What is added counts as bonded from now, so the whole is as old as its mean, rounded up.
    function _bond(Stake memory s, uint96 amount) internal view {
        uint96 bonded = s.bonded + amount;
        s.since = Math.ceilDiv(uint256(s.since) * s.bonded + block.timestamp * amount, bonded).toUint32();
        s.bonded = bonded;
    }

    /// @dev Takes from thawing stake first: what is on its way out must not outlive what stays.
    function _take(address owner, uint8 role, uint256 amount) internal {
        Stake memory s = _stakes[owner][role];
        uint96 fromThawing = uint96(Math.min(amount, s.thawing));
        s.thawing -= fromThawing;
        s.bonded -= uint96(amount) - fromThawing;
        _stakes[owner][role] = s;
        _list(owner, role, s.bonded);
    }

    /// @dev Keeps the list of verifiers, of whom one is drawn for each commit. Jurors enlist themselves elsewhere.
    function _list(address owner, uint8 role, uint96 bonded) internal {
        if (role != VERIFIER) return;
        if (bonded != 0 && bonded >= minimum(role)) _listed[role].add(owner);
        else _listed[role].remove(owner);
    }
}
