// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

import {Juries} from "./Juries.sol";
import {ICourt, Shown} from "../interfaces/ICourt.sol";
import {Offence} from "../types/Offence.sol";
import {OPERATOR} from "../types/Role.sol";

/// @notice What open cases keep of the accused's stake, and that it is slashed once for an epoch.
abstract contract CaseLocks is Juries {
    /// @dev The one lock that an owner's open cases of an epoch share.
    struct SharedLock {
        uint32 open;
        uint96 amount;
        bool slashed;
    }

    mapping(address owner => mapping(uint32 epoch => SharedLock)) private _shared;

    /// @inheritdoc ICourt
    function wasSlashed(address owner, uint32 epoch) external view returns (bool) {
        return _shared[owner][epoch].slashed;
    }

    /// @dev Only the most that the case can cost is kept from leaving. What a challenger says of fees is not checked
    /// here, so it locks no more than the severity again.
    function _lock(Case storage c, Shown[] calldata shown) internal {
        uint256 fees;
        for (uint256 i; i < shown.length; ++i) {
            fees += shown[i].fee;
        }
        uint96 severity = STAKING.severityOf(c.owner, OPERATOR, Offence.Mismatch);
        c.feesLocked = uint96(fees < severity ? fees : severity);
        SharedLock storage shared = _shared[c.owner][c.epoch];
        if (shared.open++ == 0 && !shared.slashed) {
            shared.amount = severity;
            STAKING.lock(c.owner, OPERATOR, severity);
        }
        STAKING.lock(c.owner, OPERATOR, c.feesLocked);
    }

    function _unlock(Case storage c) internal {
        STAKING.unlock(c.owner, OPERATOR, c.feesLocked);
        SharedLock storage shared = _shared[c.owner][c.epoch];
        if (--shared.open > 0 || shared.amount == 0) return;
        uint96 amount = shared.amount;
        shared.amount = 0;
        STAKING.unlock(c.owner, OPERATOR, amount);
    }

    /// @dev What a mismatch costs: of the stake as it is now or, where `room` beside the refunds allows, what the first
    /// case of the epoch locked: an owner that withdrew all the rest meanwhile has not made its offence cheaper.
    function _severity(Case storage c, uint256 room) internal view returns (uint96 severity) {
        severity = STAKING.severityOf(c.owner, OPERATOR, Offence.Mismatch);
        uint96 locked = _shared[c.owner][c.epoch].amount;
        if (room < locked) locked = uint96(room);
        if (severity < locked) severity = locked;
    }

    /// @dev Whether this is the first slash for the epoch; from now on it was.
    function _isFirstSlash(Case storage c) internal returns (bool first) {
        SharedLock storage shared = _shared[c.owner][c.epoch];
        first = !shared.slashed;
        shared.slashed = true;
    }
}
