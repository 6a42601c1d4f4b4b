// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

import {CourtState} from "./CourtState.sol";
import {ICourt} from "../interfaces/ICourt.sol";
import {IStaking} from "../interfaces/IStaking.sol";
import {Offence} from "../types/Offence.sol";
import {OPERATOR} from "../types/Role.sol";
import {Shown} from "../types/Shown.sol";

/// @notice What open cases keep of the accused's stake, and that it is slashed once for an epoch.
abstract contract CaseLocks is CourtState {
    /// @dev The one lock that an owner's open cases of an epoch share, in one slot. `severity` is what the first of them
    /// locked, or would have: `held` says which.
    struct SharedLock {
        uint32 open;
        uint96 severity;
        bool held;
        bool slashed;
    }

    uint256 private constant PPM = 1e6;
    uint256 private immutable MISMATCH_PPM;

    mapping(address owner => mapping(uint32 epoch => SharedLock)) private _shared;

    constructor(IStaking staking) {
        MISMATCH_PPM = staking.severityPpm(Offence.Mismatch);
    }

    /// @inheritdoc ICourt
    function wasSlashed(address owner, uint32 epoch) external view returns (bool) {
        return _shared[owner][epoch].slashed;
    }

    /// @dev Only the most that the case can cost is kept from leaving.
    function _lock(address owner, bool ownJob, Shown[] calldata shown) internal {
        uint96 severity = _mismatchOf(STAKING.slashable(owner, OPERATOR));
        require(severity > 0, CourtNothingAtStake(owner));
        if (ownJob) {
            _keep(owner, _ownJobLock(shown[0].fee));
            return;
        }
        SharedLock storage slot = _shared[owner][uint32(block.timestamp / EPOCH)];
        SharedLock memory shared = slot;
        bool first = shared.open++ == 0;
        if (first) (shared.severity, shared.held) = (severity, !shared.slashed);
        (slot.open, slot.severity, slot.held) = (shared.open, shared.severity, shared.held);
        uint96 amount = _feesLocked(shown, shared.severity);
        if (first && shared.held) amount += severity;
        _keep(owner, amount);
    }

    function _unlock(CaseState storage c, Shown[] calldata shown) internal {
        if (c.ownJob) {
            _free(c.owner, _ownJobLock(shown[0].fee));
            return;
        }
        SharedLock storage shared = _shared[c.owner][_epochOf(c)];
        uint96 amount = _feesLocked(shown, shared.severity);
        // The cases of an epoch may end in any order: the last one frees what the first one locked.
        if (--shared.open == 0 && shared.held) {
            shared.held = false;
            amount += shared.severity;
        }
        _free(c.owner, amount);
    }

    /// @dev What a mismatch costs: of the stake as it is now or, where `room` beside the refunds allows, what the first
    /// case of the epoch locked: an owner that withdrew all the rest meanwhile has not made its offence cheaper.
    function _severity(CaseState storage c, uint96 stake, uint256 room) internal view returns (uint96 severity) {
        severity = _mismatchOf(stake);
        SharedLock storage shared = _shared[c.owner][_epochOf(c)];
        uint96 locked = shared.held ? shared.severity : 0;
        if (room < locked) locked = uint96(room);
        if (severity < locked) severity = locked;
    }

    /// @dev Whether this is the first slash for the epoch; from now on it was.
    function _isFirstSlash(CaseState storage c) internal returns (bool first) {
        SharedLock storage shared = _shared[c.owner][_epochOf(c)];
        first = !shared.slashed;
        shared.slashed = true;
    }

    /// @dev As Staking's table has it, without asking: opening a case is the dearer for every call.
    function _mismatchOf(uint96 stake) private view returns (uint96) {
        return uint96((uint256(stake) * MISMATCH_PPM + PPM - 1) / PPM);
    }

    /// @dev What a challenger says of fees is not checked here, so it locks no more than the severity again.
    function _feesLocked(Shown[] calldata shown, uint96 severity) private pure returns (uint96) {
        uint256 fees;
        for (uint256 i; i < shown.length; ++i) {
            fees += shown[i].fee;
        }
        return uint96(fees < severity ? fees : severity);
    }

    /// @dev The fee that a payer gets back, and as much again at most for the job.
    function _ownJobLock(uint96 fee) private view returns (uint96) {
        return CASE_FEE + (fee < CASE_FEE ? fee : CASE_FEE);
    }
}
