// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

import {Math} from "@openzeppelin/contracts/utils/math/Math.sol";
import {SignatureChecker} from "@openzeppelin/contracts/utils/cryptography/SignatureChecker.sol";

import {EscrowState} from "./EscrowState.sol";
import {Signatures} from "../libraries/Signatures.sol";
import {RANGE_SIZE} from "../types/Range.sol";
import {EncodedVoucher, Voucher, VOUCHER_TYPEHASH} from "../types/Voucher.sol";

/// @notice The payers' side of `collect`: what the items of a batch are due, whether they are signed, and from which
/// funds they are paid (R-23).
/// @dev Items of one payer and signer that follow each other are a run: its account and signer are read once when it
/// opens and written once when it closes; only channels and reservations are written by each item. Nothing is called
/// in between but the precompile that recovers signers. In the `unchecked` blocks no difference is below zero, since it
/// is taken from a minimum's or a comparison's larger side, and no sum overflows, since each addend is below 2^96.
abstract contract EscrowItems is EscrowState {
    /// @dev Bytes of one packed item: payer 20, signer 20, lane 4, cumulative 12, covered 12, r 32, vs 32.
    uint256 internal constant ITEM_SIZE = 132;

    /// @dev What a run may take. Words, since each item reads most of them.
    /// @param balance What is left of the payer's pooled balance.
    /// @param capLeft What is left of the session signer's cap; the payer itself has none.
    /// @param expiry Until when the session signer is collected from, zero for an unknown one; the payer always is.
    /// @param session Whether a session signer signs, not the payer.
    /// @param reserves Whether the payer's reservations must be looked at.
    /// @param reserved What was taken from them.
    /// @param firstBalance `balance` when the run opened.
    /// @param firstCap `capLeft` when the run opened.
    /// @param reason Why the latest item paid nothing, if it did not.
    struct Run {
        uint256 balance;
        uint256 capLeft;
        uint256 expiry;
        bool session;
        bool reserves;
        uint256 reserved;
        uint256 firstBalance;
        uint256 firstCap;
        SkipReason reason;
    }

    /// @return ranges What each item moved in its channel, packed.
    /// @return paid The sum.
    function _collectItems(address node, bytes calldata items, bytes32 receiptsRoot)
        internal
        returns (bytes memory ranges, uint256 paid)
    {
        uint256 count = items.length / ITEM_SIZE;
        ranges = _emptyRanges(count);
        bytes32 domain = domainSeparator();
        Run memory run;
        EncodedVoucher memory voucher;
        voucher.typeHash = VOUCHER_TYPEHASH;
        voucher.node = node;
        for (uint256 i; i < count; ++i) {
            uint256 place = _itemAt(items, i);
            if (i == 0 || !_sameParties(voucher, place)) {
                if (i != 0) _closeRun(run, voucher);
                _openRun(run, voucher, place);
            }
            uint256 amount = _payItem(run, voucher, ranges, place, domain);
            if (amount == 0) _skip(node, receiptsRoot, i, run.reason);
            unchecked {
                paid += amount;
            }
        }
        _closeRun(run, voucher);
    }

    /// @dev As `_collectItems` for one voucher, whose payer may be a contract.
    function _collectOne(Voucher memory shown, uint256 covered, bytes calldata signature, bytes32 receiptsRoot)
        internal
        returns (bytes memory ranges, uint256 paid)
    {
        ranges = _emptyRanges(1);
        EncodedVoucher memory voucher = shown.encoded();
        Run memory run;
        _openRun(run, voucher);
        Channel storage channel_ = _channels[voucher.channelKeyOf()];
        uint256 before = channel_.collected;
        uint256 wanted = _due(run, before, voucher.cumulative, covered);
        if (wanted != 0 && !_isSigned(voucher, signature)) (wanted, run.reason) = (0, SkipReason.BadSignature);
        if (wanted != 0) paid = _take(run, voucher, wanted);
        if (paid == 0) {
            _skip(voucher.node, receiptsRoot, 0, run.reason);
            return (ranges, 0);
        }
        channel_.collected = before + paid;
        _appendRange(ranges, voucher, before, before + paid);
        _closeRun(run, voucher);
    }

    /// @dev Pays one item. A later item for the same channel sees what the earlier one did.
    function _payItem(Run memory run, EncodedVoucher memory voucher, bytes memory ranges, uint256 place, bytes32 domain)
        private
        returns (uint256 amount)
    {
        (uint256 cumulative, uint256 covered) = _readAmounts(voucher, place);
        Channel storage channel_ = _channels[voucher.channelKeyOf()];
        uint256 before = channel_.collected;
        amount = _due(run, before, cumulative, covered);
        if (amount == 0) return 0;
        (bytes32 r, bytes32 vs) = _signatureAt(place);
        address by = Signatures.recoverIn(domain, voucher.structHash(), r, vs);
        if (by != voucher.signer) {
            run.reason = SkipReason.BadSignature;
            return 0;
        }
        amount = _take(run, voucher, amount);
        if (amount == 0) {
            run.reason = SkipReason.NothingDue;
            return 0;
        }
        unchecked {
            channel_.collected = before + amount;
            _appendRange(ranges, voucher, before, before + amount);
        }
    }

    /// @dev What an item asks for beyond what its channel has paid, if its signer may ask; else why nothing.
    function _due(Run memory run, uint256 before, uint256 cumulative, uint256 covered) private view returns (uint256) {
        uint256 upto = cumulative < covered ? cumulative : covered;
        if (upto <= before) {
            run.reason = SkipReason.NothingDue;
            return 0;
        }
        uint256 expiry = run.expiry;
        if (block.timestamp > expiry) {
            run.reason = expiry == 0 ? SkipReason.UnknownSigner : SkipReason.SignerExpired;
            return 0;
        }
        unchecked {
            return upto - before;
        }
    }

    /// @dev A contract that pays signs for itself by ERC-1271; keys sign as in a batch.
    function _isSigned(EncodedVoucher memory voucher, bytes calldata signature) private view returns (bool) {
        bytes32 digest = Signatures.digest(domainSeparator(), voucher.structHash());
        address by = voucher.signer;
        if (signature.length == 64 && Signatures.recover(digest, signature) == by) return true;
        return by == voucher.payer && by.code.length != 0
            && SignatureChecker.isValidERC1271SignatureNow(by, digest, signature);
    }

    /// @dev Takes up to `wanted`: first from what the signer reserved (its cap has counted that already), then, within
    /// the cap, from what the payer reserved, then from the pooled balance.
    function _take(Run memory run, EncodedVoucher memory voucher, uint256 wanted) private returns (uint256 amount) {
        unchecked {
            uint256 capLeft = run.capLeft;
            if (run.reserves && run.session) amount = _takeReserved(run, voucher, voucher.signer, wanted);
            uint256 rest = wanted - amount;
            if (rest > capLeft) rest = capLeft;
            uint256 counted = run.reserves ? _takeReserved(run, voucher, address(0), rest) : 0;
            uint256 balance = run.balance;
            uint256 pooled = rest - counted;
            if (pooled > balance) pooled = balance;
            run.balance = balance - pooled;
            counted += pooled;
            run.capLeft = capLeft - counted;
            return amount + counted;
        }
    }

    function _takeReserved(Run memory run, EncodedVoucher memory voucher, address signer_, uint256 wanted)
        private
        returns (uint256 taken)
    {
        Set storage set = _reservations[voucher.payer][voucher.node][signer_];
        taken = Math.min(wanted, set.remaining);
        if (taken == 0) return 0;
        set.remaining -= uint96(taken);
        run.reserved += taken;
    }

    /// @dev Opens the run of the parties of the item at `place`.
    function _openRun(Run memory run, EncodedVoucher memory voucher, uint256 place) private view {
        assembly ("memory-safe") {
            mstore(add(voucher, 0x20), shr(96, calldataload(place)))
            mstore(add(voucher, 0x40), shr(96, calldataload(add(place, 20))))
        }
        _openRun(run, voucher);
    }

    function _openRun(Run memory run, EncodedVoucher memory voucher) private view {
        Account storage a = _accounts[voucher.payer];
        run.balance = run.firstBalance = a.balance;
        run.reserves = a.reserves;
        run.reserved = 0;
        run.session = voucher.signer != voucher.payer;
        run.expiry = run.capLeft = type(uint256).max;
        if (!run.session) {
            // Nobody signs for the zero address, though a signature of nobody recovers to it.
            if (voucher.signer == address(0)) run.expiry = 0;
            return;
        }
        Signer memory s = _signers[voucher.payer][voucher.signer];
        run.expiry = s.expiry;
        run.capLeft = run.firstCap = s.cap > s.used ? s.cap - s.used : 0;
    }

    /// @dev Writes what the run took: until here only channels and reservations know.
    function _closeRun(Run memory run, EncodedVoucher memory voucher) private {
        Account storage a = _accounts[voucher.payer];
        uint256 pooled = run.firstBalance - run.balance;
        if (pooled != 0) _debit(a, uint96(pooled));
        if (run.reserved != 0) {
            a.reserved -= uint96(run.reserved);
            if (a.reserved == 0) a.reserves = false;
        }
        if (!run.session) return;
        uint256 counted = run.firstCap - run.capLeft;
        if (counted != 0) _signers[voucher.payer][voucher.signer].used += uint96(counted);
    }

    function _skip(address node, bytes32 receiptsRoot, uint256 index, SkipReason reason) private {
        emit ItemSkipped(node, receiptsRoot, index, reason);
    }

    /// @dev Where in the calldata the item at `index` begins, which the caller knows to lie inside `items`.
    function _itemAt(bytes calldata items, uint256 index) private pure returns (uint256 place) {
        assembly ("memory-safe") {
            place := add(items.offset, mul(index, ITEM_SIZE))
        }
    }

    /// @dev Whether the item at `place` is of the voucher's payer and signer.
    function _sameParties(EncodedVoucher memory voucher, uint256 place) private pure returns (bool same) {
        assembly ("memory-safe") {
            let payer := eq(mload(add(voucher, 0x20)), shr(96, calldataload(place)))
            same := and(payer, eq(mload(add(voucher, 0x40)), shr(96, calldataload(add(place, 20)))))
        }
    }

    /// @dev Reads lane and cumulative of the item at `place` into the voucher.
    function _readAmounts(EncodedVoucher memory voucher, uint256 place)
        private
        pure
        returns (uint256 cumulative, uint256 covered)
    {
        assembly ("memory-safe") {
            mstore(add(voucher, 0x80), shr(224, calldataload(add(place, 40))))
            cumulative := shr(160, calldataload(add(place, 44)))
            mstore(add(voucher, 0xa0), cumulative)
            covered := shr(160, calldataload(add(place, 56)))
        }
    }

    function _signatureAt(uint256 place) private pure returns (bytes32 r, bytes32 vs) {
        assembly ("memory-safe") {
            r := calldataload(add(place, 68))
            vs := calldataload(add(place, 100))
        }
    }

    /// @dev Room for `count` ranges; the last word of the last one reaches 4 bytes beyond it.
    function _emptyRanges(uint256 count) private pure returns (bytes memory ranges) {
        ranges = new bytes(count * RANGE_SIZE + 4);
        assembly ("memory-safe") {
            mstore(ranges, 0)
        }
    }

    /// @dev Appends a packed range; the room for it was allocated.
    function _appendRange(bytes memory ranges, EncodedVoucher memory voucher, uint256 before, uint256 upto) private pure {
        assembly ("memory-safe") {
            let length := mload(ranges)
            let at := add(add(ranges, 32), length)
            mstore(at, shl(96, mload(add(voucher, 0x20))))
            mstore(add(at, 20), shl(96, mload(add(voucher, 0x40))))
            let lane := shl(224, mload(add(voucher, 0x80)))
            mstore(add(at, 40), or(lane, or(shl(128, before), shl(32, upto))))
            mstore(ranges, add(length, RANGE_SIZE))
        }
    }
}
