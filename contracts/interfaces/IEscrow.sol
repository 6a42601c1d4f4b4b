// SPDX-License-Identifier: Apache-2.0
pragma solidity >=0.8.34 <0.9.0;

import {Commit} from "../types/Commit.sol";
import {Voucher} from "../types/Voucher.sol";

/// @title Escrow of payers' deposits
/// @notice Pooled deposits, session signers, channels that only grow, reservations for single nodes, and `collect`,
/// which pays a node for many channels at once and commits it to the receipts that it collected for.
/// @dev Its owner, the timelock, can only replace the guardian, and the guardian can only pause deposits (IPause): there
/// is no way to stop an exit or a collect. The asset's balance equals the sum of accounts, reservations, credits, held
/// credits and the audit pool; nothing else that an asset does while it moves can change that: one that keeps a fee,
/// answers false or calls back makes the transfer revert, one that refuses an account keeps only that account's money in.
interface IEscrow {
    /// @notice Delays, in an order that lets nobody run: payer's thaw < exposure window < stake's thaw.
    /// @param thawPeriod Seconds between a payer's `thaw`, `revokeSigner` or `releaseReservation` and its effect.
    /// @param exposureWindow Seconds over which payments count against an owner's exposure cap.
    /// @param heldPeriod Seconds after which held credit leaves although the window is full, if no case is open.
    /// @param seedDelay Blocks between a commit and the block whose hash seeds its audit.
    struct Parameters {
        uint40 thawPeriod;
        uint40 exposureWindow;
        uint40 heldPeriod;
        uint32 seedDelay;
    }

    /// @notice Why an item of a batch paid nothing.
    enum SkipReason {
        BadSignature,
        UnknownSigner,
        SignerExpired,
        NothingDue
    }

    event Deposited(address indexed payer, address indexed from, uint96 amount);
    event ThawStarted(address indexed payer, uint96 thawing, uint40 thawEnd);
    event ThawCancelled(address indexed payer, uint96 amount);
    event Withdrawn(address indexed payer, uint96 amount);
    event SignerAuthorized(address indexed payer, address indexed signer, uint96 cap, uint40 expiry);
    event SignerRevoked(address indexed payer, address indexed signer, uint40 expiry);
    event Reserved(
        address indexed payer,
        address indexed node,
        address indexed signer,
        uint96 amount,
        uint96 cumulative,
        uint32 epoch
    );
    event ReservationReleased(
        address indexed payer, address indexed node, address indexed signer, uint40 releaseEnd
    );
    event ReservationWithdrawn(
        address indexed payer, address indexed node, address indexed signer, uint96 amount, uint32 epoch
    );
    /// @notice `ranges` packs (payer 20, signer 20, lane 4, before 12, upto 12) for each item that paid.
    event Collected(
        uint64 indexed commitId,
        address indexed node,
        address indexed owner,
        bytes32 receiptsRoot,
        uint96 step,
        uint32 sharePpm,
        uint64 seedBlock,
        uint40 time,
        uint96 paid,
        uint96 auditShare,
        uint96 held,
        bytes ranges
    );
    event ItemSkipped(address indexed node, bytes32 indexed receiptsRoot, uint256 index, SkipReason reason);
    event HeldReleased(address indexed owner, uint96 amount);
    event HeldSlashed(address indexed owner, address indexed slasher, uint96 amount);
    event AuditPoolFunded(address indexed from, uint96 amount);
    event AuditPaid(address indexed slasher, address indexed to, uint96 amount);
    event CreditWithdrawn(address indexed account, uint256 amount);

    error EscrowZeroAmount();
    error EscrowZeroAddress();
    error EscrowInsufficientBalance(uint96 available, uint96 required);
    error EscrowNothingThawing(address payer);
    error EscrowStillThawing(uint256 time, uint40 thawEnd);
    error EscrowTransferMismatch(uint256 expected, uint256 received);
    error EscrowSelfSigner(address payer);
    error EscrowSignerMayOnlyGrow(uint96 cap, uint40 expiry);
    error EscrowSignerUnknown(address payer, address signer);
    error EscrowSignerExpired(address signer, uint256 time, uint40 expiry);
    error EscrowAuthExpired(uint256 time, uint40 deadline);
    error EscrowSignerCapExceeded(uint96 available, uint96 required);
    error EscrowBadSignature(address payer, address signer);
    error EscrowReservationEpoch(uint32 expected, uint32 given);
    error EscrowReservationReleasing(uint40 releaseEnd);
    error EscrowReservationNotGrowing(uint96 granted, uint96 cumulative);
    error EscrowNotReleased(address payer, address node, address signer);
    error EscrowStillReleasing(uint256 time, uint40 releaseEnd);
    error EscrowMalformedItems(uint256 length);
    error EscrowZeroRoot();
    error EscrowUnknownNode(address node);
    error EscrowNotCollector(address owner, address caller);
    error EscrowNotSlasher(address caller);
    error EscrowNothingHeld(address owner);
    error EscrowNothingToWithdraw(address account);
    error EscrowDelaysOutOfOrder(uint40 payerThaw, uint40 exposureWindow, uint40 stakeThaw);

    /// @notice Adds `amount` of the caller's assets to `payer`'s account. Not while deposits are paused.
    function deposit(address payer, uint96 amount) external;

    /// @notice As `deposit`, with the caller's EIP-2612 permit. A permit that somebody submitted before does no harm.
    function depositWithPermit(address payer, uint96 amount, uint256 deadline, uint8 v, bytes32 r, bytes32 s) external;

    /// @notice Starts the thaw of `amount` more; the wait restarts for all that thaws.
    function thaw(uint96 amount) external;

    /// @notice Makes all that thaws ordinary balance again.
    function cancelThaw() external;

    /// @notice Pays out what has thawed and was not collected meanwhile.
    function withdraw() external returns (uint96 amount);

    /// @notice Lets `signer`, which signed SignerAuth, sign vouchers and reservations for the caller. Cap and expiry of
    /// a live signer only grow: whoever relies on them must not lose them in one block.
    function authorizeSigner(address signer, uint96 cap, uint40 expiry, uint40 deadline, bytes32 r, bytes32 vs) external;

    /// @notice Ends a signer of the caller after the thaw.
    function revokeSigner(address signer) external;

    /// @notice Sets aside `cumulative`, less what this epoch set aside before, for `node`. Signed by the payer, or by the
    /// session signer it is for; then it counts against the signer's cap. Anybody may submit it.
    /// Nothing while the reservation is being released: a signature never shown before must not lock what is leaving.
    /// @param signer The session signer that may spend it; zero for every signer of the payer.
    function reserve(
        address payer,
        address signer,
        address node,
        uint96 cumulative,
        uint32 epoch,
        bytes32 r,
        bytes32 vs
    ) external;

    /// @notice Starts the thaw of a reservation of the caller.
    function releaseReservation(address signer, address node) external;

    /// @notice Returns a thawed reservation to the balance and raises its epoch, so that old signatures lock nothing.
    function withdrawReservation(address signer, address node) external returns (uint96 amount);

    /// @notice Collects for many channels of `node` and commits to the receipts. Owner or its delegates only.
    /// @dev An item that cannot be paid is skipped with an event; only a malformed length reverts.
    /// @param items Packed (payer 20, signer 20, lane 4, cumulative 12, covered 12, r 32, vs 32) each.
    /// @param receiptsRoot Root of the receipts that tile what is collected.
    /// @return commitId Id of the commit; zero if nothing was due and none was made.
    function collect(address node, bytes calldata items, bytes32 receiptsRoot) external returns (uint64 commitId);

    /// @notice As `collect` for one channel, whose payer may be a contract: as its own signer it signs by ERC-1271.
    /// @dev A contract can take its word back at any time, without a thaw. Whoever serves it before collecting, and every
    /// batch, takes vouchers of a session signer of the contract instead, which only a thaw ends.
    /// @param signature 64 bytes r ‖ vs of a key, or whatever the payer's `isValidSignature` accepts.
    function collectOne(Voucher calldata voucher, uint96 covered, bytes calldata signature, bytes32 receiptsRoot)
        external
        returns (uint64 commitId);

    /// @notice Credits an owner with held credit, first in first out, as far as its exposure allows or the held period
    /// has passed without an open case. On anybody's call.
    /// @dev What is held within a 21st part of the period (a day) after an entry's first money leaves with it, so up to
    /// that much early: harmless, since evidence and the longest case take 15 of the 21 days. No queue grows longer than
    /// one entry each such part, and a slash walks all of it.
    function releaseHeld(address owner) external returns (uint96 amount);

    /// @notice Moves up to `amount` of an owner's held credit into its operator stake, to be slashed there. Slashers only;
    /// a removed one moves nothing.
    function slashHeld(address owner, uint96 amount) external returns (uint96 moved);

    /// @notice Adds to what verifiers are paid from.
    function fundAuditPool(uint96 amount) external;

    /// @notice Credits `to` with `amount` from the audit pool, or with all there is. Slashers only; a removed one pays
    /// nothing, then or later.
    function payFromAuditPool(address to, uint96 amount) external returns (uint96 paid);

    /// @notice Pays the caller its credit.
    function withdrawCredit() external returns (uint256 amount);

    /// @notice Pays `account` its credit, on anybody's call.
    function withdrawCreditOf(address account) external returns (uint256 amount);

    /// @notice The ERC-20 that is paid in.
    function asset() external view returns (address);

    /// @notice What this contract was made with; it never changes.
    function parameters() external view returns (Parameters memory);

    /// @notice EIP-712 domain separator of the protocol.
    function domainSeparator() external view returns (bytes32);

    /// @return balance Pooled funds, thawing ones included, reserved ones not.
    /// @return thawing Of these, what may leave at `thawEnd`.
    /// @return thawEnd When.
    /// @return reserved Sum of the payer's reservations.
    function account(address payer)
        external
        view
        returns (uint96 balance, uint96 thawing, uint40 thawEnd, uint96 reserved);

    /// @return cap Most that the signer's channels may collect and reserve.
    /// @return used What they did.
    /// @return expiry Deadline for collecting; zero if never authorised.
    function signer(address payer, address signer_) external view returns (uint96 cap, uint96 used, uint40 expiry);

    /// @notice What was collected from a channel.
    function channel(address payer, address signer_, address node, uint32 lane) external view returns (uint96 collected);

    /// @return granted What this epoch set aside.
    /// @return remaining What of it is left.
    /// @return epoch The epoch that a new signature must name.
    /// @return releaseEnd When it may be withdrawn; zero if it is not being released.
    function reservation(address payer, address signer_, address node)
        external
        view
        returns (uint96 granted, uint96 remaining, uint32 epoch, uint40 releaseEnd);

    /// @notice An owner's held credit.
    function heldOf(address owner) external view returns (uint96);

    /// @notice What an owner was paid within the exposure window, or a little longer.
    function exposure(address owner) external view returns (uint96);

    /// @notice What an owner may still be paid now of new money: held credit comes first.
    /// @dev Routers and nodes read it before they accept more work than can be collected soon.
    function freeExposure(address owner) external view returns (uint96);

    /// @notice What verifiers are paid from.
    function auditPool() external view returns (uint96);

    /// @notice What an account may withdraw of collected income and audit pay.
    function credit(address account_) external view returns (uint256);

    /// @notice Hash of a commit; zero for an unknown id.
    function commitWord(uint64 commitId) external view returns (bytes32);

    /// @notice Whether this is a commit that was made here.
    function isCommit(Commit calldata commit) external view returns (bool);

    /// @notice Id of the latest commit.
    function commitCount() external view returns (uint64);
}
