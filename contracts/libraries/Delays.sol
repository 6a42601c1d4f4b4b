// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

error DelaysOutOfOrder(uint256 payerThaw, uint256 evidence, uint256 judgement, uint256 stakeThaw, uint256 tightening);

using {check} for Delays global;

/// @notice The delays that must fit together, in seconds. A deployment may scale all of them by one factor.
/// @param payerThaw From a payer's thaw to its withdrawal.
/// @param evidence For which evidence about a commit may be brought.
/// @param judgement Which a case takes at most, with all its appeals.
/// @param stakeThaw From a stake's thaw to its withdrawal.
/// @param tightening From the announcement to the effect of what tightens on stakers: slashers, calibrations.
struct Delays {
    uint256 payerThaw;
    uint256 evidence;
    uint256 judgement;
    uint256 stakeThaw;
    uint256 tightening;
}

/// @dev A payer is never kept for as long as it takes to judge a node. A stake is still there when a case that was
/// opened on the last day of the evidence ends. Whoever disagrees with a tighter rule has left before it holds.
function check(Delays memory d) pure {
    bool fit = 0 < d.payerThaw && d.payerThaw < d.evidence && 0 < d.judgement
        && d.evidence + d.judgement < d.stakeThaw && d.stakeThaw < d.tightening;
    require(fit, DelaysOutOfOrder(d.payerThaw, d.evidence, d.judgement, d.stakeThaw, d.tightening));
}
