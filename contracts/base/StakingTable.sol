// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

import {IStaking} from "../interfaces/IStaking.sol";
import {Offence} from "../types/Offence.sol";
import {OPERATOR, ROUTER, VERIFIER} from "../types/Role.sol";

/// @notice The one table of what stakes owe, fixed at construction.
abstract contract StakingTable is IStaking {
    uint256 internal constant PPM = 1_000_000;
    /// @dev Rewards may take at most half of a severity, so that accusing oneself always loses the other half.
    uint256 private constant REWARDS_CAP_PPM = 500_000;

    uint96 private immutable MINIMUM_OPERATOR;
    uint96 private immutable MINIMUM_ROUTER;
    uint96 private immutable MINIMUM_VERIFIER;
    uint40 internal immutable THAW_PERIOD;
    uint40 internal immutable SLASHER_DELAY;
    uint32 internal immutable EXPOSURE_PPM;
    uint32 private immutable MISMATCH_PPM;
    uint32 private immutable TILING_PPM;
    uint32 private immutable OVERBILLING_PPM;
    uint32 private immutable CONFLICT_PPM;
    uint32 private immutable DUTY_PPM;
    uint32 internal immutable CHALLENGER_CAP_PPM;
    uint32 internal immutable JURORS_CAP_PPM;

    constructor(Parameters memory p) {
        // Whoever disagrees with a new slasher must be able to leave before it can slash.
        require(0 < p.thawPeriod && p.thawPeriod < p.slasherDelay, StakingDelaysOutOfOrder(p.thawPeriod, p.slasherDelay));
        _checkFraction(uint256(p.challengerCapPpm) + p.jurorsCapPpm, REWARDS_CAP_PPM);
        _checkFraction(p.mismatchPpm, PPM);
        _checkFraction(p.tilingPpm, PPM);
        _checkFraction(p.overbillingPpm, PPM);
        _checkFraction(p.conflictPpm, PPM);
        _checkFraction(p.dutyPpm, PPM);
        // What an owner may be paid before anyone can audit it must be less than what a conviction takes.
        _checkFraction(p.exposurePpm, p.mismatchPpm);
        MINIMUM_OPERATOR = p.minimumOperator;
        MINIMUM_ROUTER = p.minimumRouter;
        MINIMUM_VERIFIER = p.minimumVerifier;
        THAW_PERIOD = p.thawPeriod;
        SLASHER_DELAY = p.slasherDelay;
        EXPOSURE_PPM = p.exposurePpm;
        MISMATCH_PPM = p.mismatchPpm;
        TILING_PPM = p.tilingPpm;
        OVERBILLING_PPM = p.overbillingPpm;
        CONFLICT_PPM = p.conflictPpm;
        DUTY_PPM = p.dutyPpm;
        CHALLENGER_CAP_PPM = p.challengerCapPpm;
        JURORS_CAP_PPM = p.jurorsCapPpm;
    }

    /// @inheritdoc IStaking
    function parameters() external view returns (Parameters memory) {
        return Parameters({
            minimumOperator: MINIMUM_OPERATOR,
            minimumRouter: MINIMUM_ROUTER,
            minimumVerifier: MINIMUM_VERIFIER,
            thawPeriod: THAW_PERIOD,
            slasherDelay: SLASHER_DELAY,
            exposurePpm: EXPOSURE_PPM,
            mismatchPpm: MISMATCH_PPM,
            tilingPpm: TILING_PPM,
            overbillingPpm: OVERBILLING_PPM,
            conflictPpm: CONFLICT_PPM,
            dutyPpm: DUTY_PPM,
            challengerCapPpm: CHALLENGER_CAP_PPM,
            jurorsCapPpm: JURORS_CAP_PPM
        });
    }

    /// @inheritdoc IStaking
    function minimum(uint8 role) public view returns (uint96) {
        if (role == OPERATOR) return MINIMUM_OPERATOR;
        if (role == ROUTER) return MINIMUM_ROUTER;
        if (role == VERIFIER) return MINIMUM_VERIFIER;
        revert StakingUnknownRole(role);
    }

    /// @inheritdoc IStaking
    function severityPpm(Offence offence) public view returns (uint32) {
        if (offence == Offence.Mismatch || offence == Offence.Silence) return MISMATCH_PPM;
        if (offence == Offence.Tiling) return TILING_PPM;
        if (offence == Offence.Overbilling) return OVERBILLING_PPM;
        if (offence == Offence.Conflict) return CONFLICT_PPM;
        return DUTY_PPM;
    }

    function _checkFraction(uint256 ppm, uint256 limit) private pure {
        require(ppm <= limit, StakingFractionTooLarge(ppm, limit));
    }
}
