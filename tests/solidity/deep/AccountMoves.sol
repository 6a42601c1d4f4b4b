// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

import {IEscrow} from "../../../contracts/interfaces/IEscrow.sol";
import {IPause} from "../../../contracts/interfaces/IPause.sol";
import {SignerAuth} from "../../../contracts/types/SignerAuth.sol";
import {Ghosts} from "./Ghosts.sol";
import {amountUpTo, bound} from "./Vm.sol";

/// @notice Payers' moves: deposits and their thaw, signers, reservations; right ones and wrong ones.
abstract contract AccountMoves is Ghosts {
    function deposit(uint256 who, uint256 onto, uint256 amount) external {
        uint96 value = uint96(amountUpTo(amount, 50 * DOLLAR));
        address payer = onto % 8 == 7 ? address(0) : _payer(onto % 2);
        bytes4 refusal;
        if (_paused()) refusal = IPause.PauseInForce.selector;
        else if (payer == address(0)) refusal = IEscrow.EscrowZeroAddress.selector;
        else if (value == 0) refusal = IEscrow.EscrowZeroAmount.selector;
        _move(_payer(who % 2), address(escrow), abi.encodeCall(IEscrow.deposit, (payer, value)), refusal);
        if (refusal == bytes4(0)) _gAccount[payer].balance += value;
    }

    function thaw(uint256 who, uint256 amount) external {
        GhostAccount storage a = _gAccount[_payer(who % 2)];
        uint256 free = a.balance - a.thawing;
        // Once in a while all of it, or one unit too much.
        uint256 value = amount % 5 == 0 ? free + amount / 5 % 2 : amountUpTo(amount, 100 * DOLLAR);
        bytes4 refusal = value == 0
            ? IEscrow.EscrowZeroAmount.selector
            : value > free ? IEscrow.EscrowInsufficientBalance.selector : bytes4(0);
        _move(_payer(who % 2), address(escrow), abi.encodeCall(IEscrow.thaw, (uint96(value))), refusal);
        if (refusal != bytes4(0)) return;
        a.thawing += value;
        a.thawEnd = block.timestamp + 3 days;
    }

    function cancelThaw(uint256 who) external {
        GhostAccount storage a = _gAccount[_payer(who % 2)];
        bytes4 refusal = a.thawing == 0 ? IEscrow.EscrowNothingThawing.selector : bytes4(0);
        _move(_payer(who % 2), address(escrow), abi.encodeCall(IEscrow.cancelThaw, ()), refusal);
        if (refusal == bytes4(0)) (a.thawing, a.thawEnd) = (0, 0);
    }

    function withdraw(uint256 who) external {
        address payer = _payer(who % 2);
        GhostAccount storage a = _gAccount[payer];
        bytes4 refusal = a.thawing == 0
            ? IEscrow.EscrowNothingThawing.selector
            : block.timestamp < a.thawEnd ? IEscrow.EscrowStillThawing.selector : bytes4(0);
        uint256 before = asset.balanceOf(payer);
        _move(payer, address(escrow), abi.encodeCall(IEscrow.withdraw, ()), refusal);
        uint256 due = refusal == bytes4(0) ? a.thawing : 0;
        require(asset.balanceOf(payer) == before + due, "a withdrawal paid something else than what had thawed");
        if (due == 0) return;
        a.balance -= due;
        (a.thawing, a.thawEnd) = (0, 0);
    }

    function revoke(uint256 who, bool known) external {
        address session = _session(known ? who % 2 : 1 - who % 2);
        bytes4 refusal = known ? bytes4(0) : IEscrow.EscrowSignerUnknown.selector;
        _move(_payer(who % 2), address(escrow), abi.encodeCall(IEscrow.revokeSigner, (session)), refusal);
        if (known) _gSession[session].expiry = _min(_gSession[session].expiry, block.timestamp + 3 days);
    }

    function authorize(uint256 who, uint256 cap, uint256 life, bool forged) external {
        address session = _session(who % 2);
        GhostSession storage s = _gSession[session];
        uint96 newCap = uint96(bound(cap, CAP / 2, 3 * CAP));
        uint40 expiry = uint40(block.timestamp + bound(life, 0, 40 days));
        bool live = s.expiry >= block.timestamp;
        bytes4 refusal;
        if (expiry == block.timestamp) refusal = IEscrow.EscrowSignerExpired.selector;
        else if (live && (newCap < s.cap || expiry < s.expiry)) refusal = IEscrow.EscrowSignerMayOnlyGrow.selector;
        else if (forged) refusal = IEscrow.EscrowBadSignature.selector;
        _sendAuthorization(who % 2, newCap, expiry, forged ? PAYER + who % 2 : SESSION + who % 2, refusal);
        if (refusal == bytes4(0)) (s.cap, s.expiry) = (newCap, expiry);
    }

    /// @dev A reservation as somebody asks for it; `by` is who signs: the payer, its session signer, or a stranger.
    struct Ask {
        uint256 who;
        address session;
        address node;
        uint256 by;
        uint256 cumulative;
        uint256 epoch;
    }

    function reserve(uint256 who, uint256 node, bool forSession, uint256 by, uint256 amount, bool oldEpoch) external {
        Ask memory ask = Ask(who % 2, forSession ? _session(who % 2) : address(0), _node(node % 2), by % 8, 0, 0);
        GhostSet storage set = _gSet[_payer(ask.who)][ask.node][ask.session];
        uint256 more = amountUpTo(amount, 30 * DOLLAR);
        ask.cumulative = set.granted + more;
        ask.epoch = oldEpoch && set.epoch > 0 ? set.epoch - 1 : set.epoch;
        bytes4 refusal = _reservationRefusal(ask, set);
        _sendReservation(ask, refusal);
        if (refusal != bytes4(0)) return;
        GhostAccount storage a = _gAccount[_payer(ask.who)];
        a.balance -= more;
        a.thawing = _min(a.thawing, a.balance);
        a.reserved += more;
        set.granted = ask.cumulative;
        set.remaining += more;
        if (forSession) _gSession[ask.session].used += more;
    }

    function release(uint256 who, uint256 node, bool forSession) external {
        address session = forSession ? _session(who % 2) : address(0);
        GhostSet storage set = _gSet[_payer(who % 2)][_node(node % 2)][session];
        _move(
            _payer(who % 2),
            address(escrow),
            abi.encodeCall(IEscrow.releaseReservation, (session, _node(node % 2))),
            bytes4(0)
        );
        set.releaseEnd = block.timestamp + 3 days;
    }

    function endReservation(uint256 who, uint256 node, bool forSession) external {
        address session = forSession ? _session(who % 2) : address(0);
        GhostSet storage set = _gSet[_payer(who % 2)][_node(node % 2)][session];
        bytes4 refusal = set.releaseEnd == 0
            ? IEscrow.EscrowNotReleased.selector
            : block.timestamp < set.releaseEnd ? IEscrow.EscrowStillReleasing.selector : bytes4(0);
        bytes memory data = abi.encodeCall(IEscrow.withdrawReservation, (session, _node(node % 2)));
        _move(_payer(who % 2), address(escrow), data, refusal);
        if (refusal != bytes4(0)) return;
        GhostAccount storage a = _gAccount[_payer(who % 2)];
        a.balance += set.remaining;
        a.reserved -= set.remaining;
        if (forSession) _gSession[session].used -= set.remaining;
        (set.granted, set.remaining, set.releaseEnd) = (0, 0, 0);
        set.epoch += 1;
    }

    function _sendAuthorization(uint256 who, uint96 cap, uint40 expiry, uint256 by, bytes4 refusal) private {
        address session = _session(who);
        uint40 deadline = uint40(block.timestamp);
        (bytes32 r, bytes32 vs) = _sign(by, SignerAuth(_payer(who), session, cap, expiry, deadline).hash());
        bytes memory data = abi.encodeCall(IEscrow.authorizeSigner, (session, cap, expiry, deadline, r, vs));
        _move(_payer(who), address(escrow), data, refusal);
    }

    function _reservationRefusal(Ask memory ask, GhostSet storage set) private view returns (bytes4) {
        GhostSession storage s = _gSession[_session(ask.who)];
        bool forSession = ask.session != address(0);
        if (forSession && block.timestamp > s.expiry) return IEscrow.EscrowSignerExpired.selector;
        if (ask.by == 7 || (ask.by > 3 && !forSession)) return IEscrow.EscrowBadSignature.selector;
        if (ask.epoch != set.epoch) return IEscrow.EscrowReservationEpoch.selector;
        if (set.releaseEnd != 0) return IEscrow.EscrowReservationReleasing.selector;
        if (ask.cumulative == set.granted) return IEscrow.EscrowReservationNotGrowing.selector;
        uint256 more = ask.cumulative - set.granted;
        if (more > _gAccount[_payer(ask.who)].balance) return IEscrow.EscrowInsufficientBalance.selector;
        if (forSession && more + s.used > s.cap) return IEscrow.EscrowSignerCapExceeded.selector;
        return bytes4(0);
    }

    /// @dev Anybody may submit it.
    function _sendReservation(Ask memory ask, bytes4 refusal) private {
        uint256 key = ask.by == 7 ? OWNER : ask.by > 3 ? SESSION + ask.who : PAYER + ask.who;
        address payer = _payer(ask.who);
        (uint96 cumulative, uint32 epoch) = (uint96(ask.cumulative), uint32(ask.epoch));
        (bytes32 r, bytes32 vs) = _signReservation(payer, ask.session, ask.node, cumulative, epoch, key);
        bytes memory data = abi.encodeCall(IEscrow.reserve, (payer, ask.session, ask.node, cumulative, epoch, r, vs));
        _move(_owner(0), address(escrow), data, refusal);
    }
}
