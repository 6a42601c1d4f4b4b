// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

import {CourtState} from "./CourtState.sol";
import {ICourt} from "../interfaces/ICourt.sol";
import {IEscrow} from "../interfaces/IEscrow.sol";
import {IStaking} from "../interfaces/IStaking.sol";
import {Offence} from "../types/Offence.sol";
import {OPERATOR} from "../types/Role.sol";
import {Shown} from "../types/Shown.sol";

/// @notice What open cases keep of the accused's stake, and that no part of it is slashed twice for an epoch.
abstract contract CaseLocks is CourtState {
    /// @dev What an owner's cases of an epoch share, in one slot: how many are open, what they keep for the severity that
    /// is still due, and what was taken for the epoch already.
    struct SharedLock {
        uint32 open;
        uint96 locked;
        uint96 taken;
    }

    uint256 private constant PPM = 1e6;
    uint256 private immutable MISMATCH_PPM;
    IEscrow internal immutable ESCROW;

    mapping(address owner => mapping(uint32 epoch => SharedLock)) private _shared;

    constructor(IStaking staking, IEscrow escrow) {
        MISMATCH_PPM = staking.severityPpm(Offence.Mismatch);
        ESCROW = escrow;
    }

    /// @inheritdoc ICourt
    function takenOf(address owner, uint32 epoch) external view returns (uint96) {
        return _shared[owner][epoch].taken;
    }

    /// @dev The most that the case can cost beyond what others of the epoch lock, to be kept from leaving.
    function _claim(address owner, bool ownJob, Shown[] calldata shown)
        internal
        returns (uint96 amount, uint8 feeBits)
    {
        uint96 stake = _stakeOf(owner);
        // Who let its stake leave and collects then has all of it held.
        if (stake == 0) require(_heldOf(owner) > 0, CourtNothingAtStake(owner));
        if (ownJob) return (_ownJobLock(shown[0].fee), 0);
        SharedLock storage slot = _shared[owner][uint32(block.timestamp / EPOCH)];
        (uint96 locked, uint96 taken) = (slot.locked, slot.taken);
        uint96 due = _dueOf(stake, taken);
        if (due > locked) (amount, locked) = (due - locked, due);
        (slot.open, slot.locked, slot.taken) = (slot.open + 1, locked, taken);
        // What a challenger says of fees is not checked here, so it locks no more than the severity again: where it says
        // more, the greatest power of two that fits, of which the case keeps the exponent.
        (uint256 fees, uint256 most) = (_sumOf(shown), uint256(due) + taken);
        feeBits = type(uint8).max;
        if (fees > most) {
            for (feeBits = 0; most > 1; most >>= 1) {
                ++feeBits;
            }
            fees = 1 << feeBits;
        }
        amount += uint96(fees);
    }

    /// @dev `freed` is what the case itself has taken of the lock. The cases of an epoch may end in any order: the last one
    /// frees what is left.
    function _unlock(CaseState storage c, Shown[] calldata shown, uint96 freed) internal {
        if (c.ownJob) {
            _tell(STAKING.unlock, c.owner, _ownJobLock(shown[0].fee));
            return;
        }
        SharedLock storage shared = _shared[c.owner][_epochOf(c)];
        if (--shared.open == 0) {
            freed += shared.locked;
            shared.locked = 0;
        }
        (uint256 fees, uint256 most) = (_sumOf(shown), 1 << c.feeBits);
        _tell(STAKING.unlock, c.owner, freed + uint96(fees < most ? fees : most));
    }

    /// @dev What a mismatch costs: of `atStake` as it is now or, where `room` beside the refunds allows, what the cases of
    /// the epoch locked: an owner that withdrew all the rest meanwhile has not made its offence cheaper. What was taken
    /// before is not taken again. Also what the lock is less by.
    function _takeDue(CaseState storage c, uint256 atStake, uint256 room)
        internal
        returns (uint96 severity, uint96 freed)
    {
        SharedLock storage shared = _shared[c.owner][_epochOf(c)];
        uint96 locked = shared.locked;
        severity = _dueOf(atStake, shared.taken);
        uint96 least = room < locked ? uint96(room) : locked;
        if (severity < least) severity = least;
        freed = severity < locked ? severity : locked;
        shared.locked = locked - freed;
        shared.taken += severity;
    }

    function _stakeOf(address owner) internal view returns (uint96) {
        return STAKING.slashable(owner, OPERATOR);
    }

    function _heldOf(address owner) internal view returns (uint96) {
        return ESCROW.heldOf(owner);
    }

    /// @dev The severity of a stake of which `taken` is gone already, less that. As Staking's table has it, without asking:
    /// opening a case is the dearer for every call.
    function _dueOf(uint256 atStake, uint96 taken) private view returns (uint96) {
        unchecked {
            // Two stakes times a part of a million are far from 256 bits.
            uint256 most = ((atStake + taken) * MISMATCH_PPM + PPM - 1) / PPM;
            return most > taken ? uint96(most - taken) : 0;
        }
    }

    function _sumOf(Shown[] calldata shown) private pure returns (uint256 fees) {
        for (uint256 i; i < shown.length; ++i) {
            fees += shown[i].fee;
        }
    }

    /// @dev The fee that a payer gets back, and as much again at most for the job.
    function _ownJobLock(uint96 fee) private view returns (uint96) {
        return CASE_FEE + (fee < CASE_FEE ? fee : CASE_FEE);
    }
}
