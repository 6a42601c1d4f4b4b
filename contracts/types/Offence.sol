// SPDX-License-Identifier: Apache-2.0
pragma solidity >=0.8.34 <0.9.0;

/// @notice What a stake can be slashed for; Staking's table gives each its severity.
enum Offence {
    /// Convicted by a jury: other weights, sampler or prompt than signed for.
    Mismatch,
    /// A drawn audit point was not answered. Costs what a mismatch costs.
    Silence,
    /// A gap, overlap, duplicate or unsigned leaf under a committed root.
    Tiling,
    /// A fee above the offer or the request, or counts that are not the trees'.
    Overbilling,
    /// Two signed statements that contradict each other, under no commit: hot keys alone signed them.
    Conflict,
    /// A drawn juror or verifier that did not reveal, or contradicted itself.
    Duty
}
