// SPDX-License-Identifier: Apache-2.0
pragma solidity >=0.8.34 <0.9.0;

import {Offence} from "../types/Offence.sol";

/// @title Staking, typed by role
/// @notice Holds what operators, routers and verifiers can lose. Thawing stake stays slashable until it is withdrawn.
/// @dev Roles are the constants of types/Role.sol. Slashers are added late enough to leave before, and removed at once.
/// What a removed slasher still calls changes no stake and reverts nothing, so that its open cases come to an end.
interface IStaking {
    /// @notice The one table of what stakes owe. All fractions are in 1e-6.
    /// @param minimumOperator Bonded stake below which an operator is not active.
    /// @param minimumRouter The same for a router.
    /// @param minimumVerifier The same for a verifier.
    /// @param thawPeriod Seconds between `thaw` and `withdraw`.
    /// @param slasherDelay Seconds until a proposed slasher may slash; longer than `thawPeriod`.
    /// @param exposurePpm What an owner may be paid within the Escrow's exposure window, of its free stake.
    /// @param mismatchPpm Severity of `Offence.Mismatch` and of `Offence.Silence`, of the slashable stake.
    /// @param tilingPpm Severity of `Offence.Tiling`.
    /// @param overbillingPpm Severity of `Offence.Overbilling`.
    /// @param conflictPpm Severity of `Offence.Conflict`, which hot-key signatures alone can prove.
    /// @param dutyPpm Severity of `Offence.Duty`.
    /// @param challengerCapPpm Most that a challenger gets of a severity.
    /// @param jurorsCapPpm Most that all jurors together get of a severity.
    struct Parameters {
        uint96 minimumOperator;
        uint96 minimumRouter;
        uint96 minimumVerifier;
        uint40 thawPeriod;
        uint40 slasherDelay;
        uint32 exposurePpm;
        uint32 mismatchPpm;
        uint32 tilingPpm;
        uint32 overbillingPpm;
        uint32 conflictPpm;
        uint32 dutyPpm;
        uint32 challengerCapPpm;
        uint32 jurorsCapPpm;
    }

    /// @notice One slash: the severity, and on top of it the refunds.
    /// @param severity What the offence costs.
    /// @param challenger Who gets `challengerShare` of it, capped; zero for nobody.
    /// @param challengerShare What the challenger asks.
    /// @param jurors Who get `jurorShare` of it each, capped together.
    /// @param jurorShare What each juror asks.
    /// @param receipts Digests of the receipts to refund; one that was refunded before is passed over.
    /// @param payers Who paid for each receipt.
    /// @param refunds What each receipt cost.
    struct Slash {
        uint96 severity;
        address challenger;
        uint96 challengerShare;
        address[] jurors;
        uint96 jurorShare;
        bytes32[] receipts;
        address[] payers;
        uint96[] refunds;
    }

    event Staked(address indexed owner, uint8 indexed role, address indexed from, uint96 amount);
    event ThawStarted(address indexed owner, uint8 indexed role, uint96 thawing, uint40 thawEnd);
    event ThawCancelled(address indexed owner, uint8 indexed role, uint96 amount);
    event Withdrawn(address indexed owner, uint8 indexed role, uint96 amount);
    event Locked(address indexed owner, uint8 indexed role, address indexed slasher, uint96 amount);
    event Unlocked(address indexed owner, uint8 indexed role, address indexed slasher, uint96 amount);
    /// @notice `severity` and `refunded` are what was taken; `rewarded` went to challenger and jurors, `burned` to nobody.
    event Slashed(
        address indexed owner,
        uint8 indexed role,
        address indexed slasher,
        uint96 severity,
        uint96 refunded,
        uint96 rewarded,
        uint96 burned
    );
    event Refunded(bytes32 indexed receipt, address indexed payer, uint96 amount);
    event Rewarded(address indexed account, uint96 amount);
    event CreditWithdrawn(address indexed account, uint256 amount);
    /// @notice The asset would not be burned: nobody's credit rose instead.
    event BurnRefused(uint96 amount);
    event SlasherProposed(address indexed slasher, uint40 activeFrom);
    event SlasherRemoved(address indexed slasher);

    error StakingUnknownRole(uint8 role);
    error StakingZeroAmount();
    error StakingZeroAddress();
    error StakingInsufficient(uint96 bonded, uint96 required);
    error StakingNothingThawing(address owner, uint8 role);
    error StakingStillThawing(uint256 time, uint40 thawEnd);
    error StakingLocked(uint96 stake, uint96 locked);
    error StakingNotLocked(uint96 locked, uint96 amount);
    error StakingNotSlasher(address caller);
    error StakingSlasherKnown(address slasher);
    error StakingSlasherUnknown(address slasher);
    error StakingNotOwner(address owner, address caller);
    error StakingNothingToWithdraw(address account);
    error StakingTransferMismatch(uint256 expected, uint256 received);
    error StakingLengthMismatch(uint256 receipts, uint256 payers, uint256 refunds);
    error StakingDelaysOutOfOrder(uint40 thawPeriod, uint40 slasherDelay);
    error StakingFractionTooLarge(uint256 ppm, uint256 limit);

    /// @notice Bonds `amount` of the caller's assets as its stake in `role`.
    function stake(uint8 role, uint96 amount) external;

    /// @notice As `stake`, for the owner itself and for the Escrow, which moves held credit here to be slashed: that is
    /// not kept out by a pause, and makes no stake younger. Nobody else stakes for an owner: young stake may not judge.
    function stakeFor(address owner, uint8 role, uint96 amount) external;

    /// @notice Starts the thaw of `amount` more; the wait restarts for all that thaws. An owner whose bonded stake falls
    /// below the role's minimum is no longer active.
    function thaw(uint8 role, uint96 amount) external;

    /// @notice Bonds again all that thaws.
    function cancelThaw(uint8 role) external;

    /// @notice Pays out what has thawed and is not locked.
    function withdraw(uint8 role) external returns (uint96 amount);

    /// @notice Pays the caller what refunds and rewards have credited to it.
    function withdrawCredit() external returns (uint256 amount);

    /// @notice Pays `account` its credit, on anybody's call.
    function withdrawCreditOf(address account) external returns (uint256 amount);

    /// @notice Keeps at least `amount` more of a stake from leaving while a case is open. Slashers only, no removed ones.
    /// @dev A case locks the most that it can cost when it is opened, and at its end takes no less than that: stake that
    /// had thawed before may leave in between, and makes the offence no cheaper.
    function lock(address owner, uint8 role, uint96 amount) external;

    /// @notice Ends a lock of the caller. Slashers only, removed ones too. What is not locked cannot be unlocked, unless a
    /// slasher was removed: then what its cases end may have been another's, whose unlock must not fail for it.
    function unlock(address owner, uint8 role, uint96 amount) external;

    /// @notice As `lock`, for what a juror can lose of its stake. No case is open against it: its held credit
    /// leaves as ever.
    function lockDuty(address juror, uint8 role, uint96 amount) external;

    /// @notice Ends a `lockDuty`, as `unlock` does a lock.
    function unlockDuty(address juror, uint8 role, uint96 amount) external;

    /// @notice Takes a severity and, on top of it, refunds, from bonded and thawing stake. Slashers only.
    /// @dev At least half of the severity is burned, before anything else is paid; when the stake is short, refunds and
    /// the rest of the severity are cut pro rata. Never reverts for short funds. Rounding favours the burn. Thawing stake
    /// goes first. What the asset refuses to send to nobody stays here as nobody's credit.
    function slash(address owner, uint8 role, Slash calldata order)
        external
        returns (uint96 severity, uint96 refunded, uint96 burned);

    /// @notice Names a contract that may slash once the delay is over, which is longer than a stake's thaw. Contract owner
    /// only.
    function proposeSlasher(address slasher) external;

    /// @notice Ends a slasher's power at once and for ever, or a proposal. Contract owner only.
    function removeSlasher(address slasher) external;

    /// @notice The ERC-20 that is staked.
    function asset() external view returns (address);

    /// @notice What this contract was made with; it never changes.
    function parameters() external view returns (Parameters memory);

    /// @notice Smallest bonded stake of an active owner in `role`.
    function minimum(uint8 role) external view returns (uint96);

    /// @return bonded Stake that counts.
    /// @return thawing Stake on its way out, still slashable.
    /// @return thawEnd When it may leave.
    /// @return locks Open locks, jurors' duties not counted.
    /// @return since Amount-weighted mean time of bonding: stake added late is not old.
    function stakeOf(address owner, uint8 role)
        external
        view
        returns (uint96 bonded, uint96 thawing, uint40 thawEnd, uint16 locks, uint40 since);

    /// @notice Bonded and thawing stake.
    function slashable(address owner, uint8 role) external view returns (uint96);

    /// @notice What open locks keep from leaving.
    function lockedOf(address owner, uint8 role) external view returns (uint96);

    /// @notice Bonded stake that no lock claims.
    function freeStake(address owner, uint8 role) external view returns (uint96);

    /// @notice What an operator may be paid within the Escrow's exposure window.
    function exposureCap(address owner) external view returns (uint96);

    /// @notice Whether the owner's bonded stake reaches the role's minimum.
    function isActive(address owner, uint8 role) external view returns (bool);

    /// @notice Active verifiers; of other roles nobody is listed.
    function owners(uint8 role) external view returns (address[] memory);

    /// @notice Fraction (1e-6) of the slashable stake that an offence costs.
    function severityPpm(Offence offence) external view returns (uint32);

    /// @notice What an offence would cost this owner now, rounded up.
    function severityOf(address owner, uint8 role, Offence offence) external view returns (uint96);

    /// @notice Whether a receipt has been refunded.
    function isRefunded(bytes32 receipt) external view returns (bool);

    /// @notice What an account may withdraw of refunds and rewards.
    function credit(address account) external view returns (uint256);

    /// @notice From when on a contract may slash, or might until it was removed; zero for never.
    function slasherFrom(address slasher) external view returns (uint40);

    /// @notice Whether it may slash now.
    function isSlasher(address slasher) external view returns (bool);

    /// @notice Whether it could slash once and was removed.
    function wasSlasher(address slasher) external view returns (bool);
}
