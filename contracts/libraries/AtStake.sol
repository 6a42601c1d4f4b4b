// SPDX-License-Identifier: Apache-2.0
pragma solidity >=0.8.34 <0.9.0;

import {Math} from "@openzeppelin/contracts/utils/math/Math.sol";

import {IEscrow} from "../interfaces/IEscrow.sol";
import {IStaking} from "../interfaces/IStaking.sol";
import {Offence} from "../types/Offence.sol";
import {OPERATOR} from "../types/Role.sol";

/// @notice What an operator can lose: its stake, and what Escrow holds back of its income.
library AtStake {
    uint256 private constant PPM = 1e6;

    /// @notice What an offence costs: all of `whole`, of which no more counts than is held, and of the rest of stake and
    /// held credit the fraction of Staking's table, rounded up.
    function severityOf(IStaking staking, IEscrow escrow, address owner, Offence offence, uint256 whole)
        internal
        view
        returns (uint96)
    {
        uint256 held = escrow.heldOf(owner);
        whole = Math.min(whole, held);
        uint256 rest = staking.slashable(owner, OPERATOR) + held - whole;
        return uint96(whole + Math.mulDiv(rest, staking.severityPpm(offence), PPM, Math.Rounding.Ceil));
    }

    /// @notice Moves into the stake what it lacks of `needed`, as far as credit is held.
    function reachHeld(IStaking staking, IEscrow escrow, address owner, uint256 needed) internal {
        uint96 stake = staking.slashable(owner, OPERATOR);
        if (needed <= stake) return;
        uint96 held = escrow.heldOf(owner);
        uint256 short = needed - stake;
        if (held > 0) escrow.slashHeld(owner, short < held ? uint96(short) : held);
    }
}
