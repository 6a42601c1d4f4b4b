// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

import {SafeTransferLib} from "solady/src/utils/SafeTransferLib.sol";

import {CourtState} from "./CourtState.sol";
import {ICourt} from "../interfaces/ICourt.sol";

/// @notice Fees, bonds and tips: what a case costs, and to whom it is due in the end.
abstract contract CourtMoney is CourtState {
    /// @notice Tips that opening a case pays for: two for each of a first, a replaced and an enlarged jury, one for the
    /// end. An appeal pays for two more.
    uint8 public constant MAX_TIPS = 7;

    address internal constant BURN = 0x000000000000000000000000000000000000dEaD;

    address internal immutable ASSET;

    /// @inheritdoc ICourt
    mapping(address account => uint256) public credit;

    constructor(address asset) {
        ASSET = asset;
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
        return uint256(CASE_BOND) + ownJobCost();
    }

    /// @inheritdoc ICourt
    function ownJobCost() public view returns (uint256) {
        return uint256(CASE_FEE) + uint256(TIP) * MAX_TIPS;
    }

    /// @inheritdoc ICourt
    function appealCost(uint256 caseId) public view returns (uint256) {
        uint256 doublings = uint256(_cases[caseId].appeals) + 1;
        return ((uint256(CASE_FEE) + CASE_BOND) << doublings) + 2 * uint256(TIP);
    }

    /// @dev Fees and bonds of all stages to whom they are due; returns what nobody gets.
    function _settle(uint256 caseId, CaseState storage c, address[] memory payees, bool jurorsPaid)
        internal
        returns (uint96 lost)
    {
        uint8 verdict = c.verdict;
        // Nobody opens a case for nothing where no jury can sit: it has kept a stake locked all the same.
        bool heard = _rounds[caseId][0].size > 0;
        uint256 pot;
        for (uint8 i; i <= c.appeals; ++i) {
            Appeal memory stage = i == 0 ? Appeal(c.challenger, 0, verdict) : _appeals[caseId][i];
            bool right = i == 0 ? verdict == MISMATCH : verdict != stage.appealed;
            bool unheard = payees.length == 0 || stage.outcome == 0;
            if (!heard) _credit(c.owner, CASE_FEE);
            else if (unheard || (verdict == MISMATCH && right && jurorsPaid)) _credit(stage.appellant, CASE_FEE << i);
            else pot += CASE_FEE << i;
            uint96 bond = i == 0 && c.ownJob ? 0 : CASE_BOND << i;
            if (right || unheard || stage.outcome == INCONCLUSIVE) _credit(stage.appellant, bond);
            else lost += _compensate(c, bond);
        }
        if (pot == 0) return lost;
        uint256 each = pot / payees.length;
        for (uint256 i; i < payees.length; ++i) {
            _credit(payees[i], each);
        }
        lost += uint96(pot - each * payees.length);
    }

    /// @dev Half of a lost bond goes to whom the verdict favours; the rest, or all of it, to nobody.
    function _compensate(CaseState storage c, uint96 bond) private returns (uint96 lost) {
        uint96 half = c.verdict == INCONCLUSIVE ? 0 : bond / 2;
        _credit(c.verdict == MATCH ? c.owner : c.challenger, half);
        return bond - half;
    }

    function _tip(CaseState storage c) internal {
        if (c.tips == 0) return;
        --c.tips;
        _credit(msg.sender, TIP);
    }

    function _credit(address account, uint256 amount) internal {
        if (amount == 0) return;
        credit[account] += amount;
        emit Credited(account, amount);
    }
}
