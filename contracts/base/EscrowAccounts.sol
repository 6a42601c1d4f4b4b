// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

import {IERC20Permit} from "@openzeppelin/contracts/token/ERC20/extensions/IERC20Permit.sol";

import {EscrowState} from "./EscrowState.sol";
import {IEscrow} from "../interfaces/IEscrow.sol";
import {Signatures} from "../libraries/Signatures.sol";
import {Reservation} from "../types/Reservation.sol";
import {SignerAuth} from "../types/SignerAuth.sol";

/// @notice The payers' side: deposits and their thaw, session signers, reservations.
abstract contract EscrowAccounts is EscrowState {
    /// @inheritdoc IEscrow
    function deposit(address payer, uint96 amount) public nonReentrant whenRunning {
        require(payer != address(0), EscrowZeroAddress());
        require(amount != 0, EscrowZeroAmount());
        _accounts[payer].balance += amount;
        emit Deposited(payer, msg.sender, amount);
        _pull(msg.sender, amount);
    }

    /// @inheritdoc IEscrow
    function depositWithPermit(address payer, uint96 amount, uint256 deadline, uint8 v, bytes32 r, bytes32 s) external {
        // Whoever submits this permit first grants the same allowance: then it fails here, and the deposit works.
        try IERC20Permit(address(ASSET)).permit(msg.sender, address(this), amount, deadline, v, r, s) {} catch {}
        deposit(payer, amount);
    }

    /// @inheritdoc IEscrow
    function thaw(uint96 amount) external {
        Account storage a = _accounts[msg.sender];
        require(amount != 0, EscrowZeroAmount());
        uint96 free = a.balance - a.thawing;
        require(amount <= free, EscrowInsufficientBalance(free, amount));
        a.thawing += amount;
        a.thawEnd = uint40(block.timestamp) + THAW_PERIOD;
        emit ThawStarted(msg.sender, a.thawing, a.thawEnd);
    }

    /// @inheritdoc IEscrow
    function cancelThaw() external {
        Account storage a = _accounts[msg.sender];
        uint96 amount = a.thawing;
        require(amount != 0, EscrowNothingThawing(msg.sender));
        a.thawing = 0;
        a.thawEnd = 0;
        emit ThawCancelled(msg.sender, amount);
    }

    /// @inheritdoc IEscrow
    function withdraw() external nonReentrant returns (uint96 amount) {
        Account storage a = _accounts[msg.sender];
        amount = a.thawing;
        require(amount != 0, EscrowNothingThawing(msg.sender));
        require(block.timestamp >= a.thawEnd, EscrowStillThawing(block.timestamp, a.thawEnd));
        a.thawing = 0;
        a.thawEnd = 0;
        a.balance -= amount;
        emit Withdrawn(msg.sender, amount);
        _push(msg.sender, amount);
    }

    /// @inheritdoc IEscrow
    function authorizeSigner(address signer_, uint96 cap, uint40 expiry, uint40 deadline, bytes32 r, bytes32 vs)
        external
    {
        require(signer_ != msg.sender, EscrowSelfSigner(msg.sender));
        require(block.timestamp <= deadline, EscrowAuthExpired(block.timestamp, deadline));
        require(block.timestamp < expiry, EscrowSignerExpired(signer_, block.timestamp, expiry));
        Signer storage s = _signers[msg.sender][signer_];
        bool live = s.expiry >= block.timestamp;
        require(!live || (cap >= s.cap && expiry >= s.expiry), EscrowSignerMayOnlyGrow(s.cap, s.expiry));
        bytes32 structHash = SignerAuth(msg.sender, signer_, cap, expiry, deadline).hash();
        bytes32 digest = Signatures.digest(domainSeparator(), structHash);
        require(_signed(digest, r, vs, signer_), EscrowBadSignature(msg.sender, signer_));
        s.cap = cap;
        s.expiry = expiry;
        emit SignerAuthorized(msg.sender, signer_, cap, expiry);
    }

    /// @inheritdoc IEscrow
    function revokeSigner(address signer_) external {
        Signer storage s = _signers[msg.sender][signer_];
        require(s.expiry != 0, EscrowSignerUnknown(msg.sender, signer_));
        uint40 end = uint40(block.timestamp) + THAW_PERIOD;
        if (end < s.expiry) s.expiry = end;
        emit SignerRevoked(msg.sender, signer_, s.expiry);
    }

    /// @inheritdoc IEscrow
    function reserve(
        address payer,
        address signer_,
        address node,
        uint96 cumulative,
        uint32 epoch,
        bytes32 r,
        bytes32 vs
    ) external {
        require(signer_ != payer, EscrowSelfSigner(payer));
        bytes32 structHash = Reservation(payer, signer_, node, cumulative, epoch).hash();
        _checkReservationSigner(payer, signer_, Signatures.digest(domainSeparator(), structHash), r, vs);
        Set storage set = _reservations[payer][node][signer_];
        require(epoch == set.epoch, EscrowReservationEpoch(set.epoch, epoch));
        require(set.releaseEnd == 0, EscrowReservationReleasing(set.releaseEnd));
        require(cumulative > set.granted, EscrowReservationNotGrowing(set.granted, cumulative));
        uint96 amount = cumulative - set.granted;
        Account storage a = _accounts[payer];
        require(amount <= a.balance, EscrowInsufficientBalance(a.balance, amount));
        if (signer_ != address(0)) _useCap(payer, signer_, amount);
        _debit(a, amount);
        a.reserved += amount;
        a.reserves = true;
        set.granted = cumulative;
        set.remaining += amount;
        emit Reserved(payer, node, signer_, amount, cumulative, epoch);
    }

    /// @inheritdoc IEscrow
    function releaseReservation(address signer_, address node) external {
        uint40 end = uint40(block.timestamp) + THAW_PERIOD;
        _reservations[msg.sender][node][signer_].releaseEnd = end;
        emit ReservationReleased(msg.sender, node, signer_, end);
    }

    /// @inheritdoc IEscrow
    function withdrawReservation(address signer_, address node) external returns (uint96 amount) {
        Set storage set = _reservations[msg.sender][node][signer_];
        require(set.releaseEnd != 0, EscrowNotReleased(msg.sender, node, signer_));
        require(block.timestamp >= set.releaseEnd, EscrowStillReleasing(block.timestamp, set.releaseEnd));
        amount = set.remaining;
        set.granted = 0;
        set.remaining = 0;
        set.epoch += 1;
        set.releaseEnd = 0;
        Account storage a = _accounts[msg.sender];
        a.balance += amount;
        a.reserved -= amount;
        if (a.reserved == 0) a.reserves = false;
        if (signer_ != address(0)) _signers[msg.sender][signer_].used -= amount;
        emit ReservationWithdrawn(msg.sender, node, signer_, amount, set.epoch);
    }

    /// @inheritdoc IEscrow
    function account(address payer)
        external
        view
        returns (uint96 balance, uint96 thawing, uint40 thawEnd, uint96 reserved)
    {
        Account storage a = _accounts[payer];
        return (a.balance, a.thawing, a.thawEnd, a.reserved);
    }

    /// @inheritdoc IEscrow
    function signer(address payer, address signer_) external view returns (uint96 cap, uint96 used, uint40 expiry) {
        Signer storage s = _signers[payer][signer_];
        return (s.cap, s.used, s.expiry);
    }

    /// @inheritdoc IEscrow
    function reservation(address payer, address signer_, address node)
        external
        view
        returns (uint96 granted, uint96 remaining, uint32 epoch, uint40 releaseEnd)
    {
        Set storage set = _reservations[payer][node][signer_];
        return (set.granted, set.remaining, set.epoch, set.releaseEnd);
    }

    /// @dev The payer may sign for anyone of its signers; a session signer for itself, while it may collect.
    function _checkReservationSigner(address payer, address signer_, bytes32 digest, bytes32 r, bytes32 vs)
        private
        view
    {
        if (signer_ != address(0)) {
            uint40 expiry = _signers[payer][signer_].expiry;
            require(expiry != 0, EscrowSignerUnknown(payer, signer_));
            require(block.timestamp <= expiry, EscrowSignerExpired(signer_, block.timestamp, expiry));
        }
        bool signed = _signed(digest, r, vs, payer) || _signed(digest, r, vs, signer_);
        require(signed, EscrowBadSignature(payer, signer_));
    }

    function _useCap(address payer, address signer_, uint96 amount) private {
        Signer storage s = _signers[payer][signer_];
        uint96 left = s.cap > s.used ? s.cap - s.used : 0;
        require(amount <= left, EscrowSignerCapExceeded(left, amount));
        s.used += amount;
    }

    function _signed(bytes32 digest, bytes32 r, bytes32 vs, address by) private pure returns (bool) {
        return by != address(0) && Signatures.recover(digest, r, vs) == by;
    }
}
