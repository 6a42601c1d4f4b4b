// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

import {Math} from "@openzeppelin/contracts/utils/math/Math.sol";
import {SignatureChecker} from "@openzeppelin/contracts/utils/cryptography/SignatureChecker.sol";

import {EscrowState} from "./EscrowState.sol";
import {Signatures} from "../libraries/Signatures.sol";
import {channelKey, RANGE_SIZE} from "../types/Range.sol";
import {Voucher} from "../types/Voucher.sol";

/// @notice The payers' side of `collect`: what the items of a batch are due, whether they are signed, and from which
/// funds they are paid (R-23).
/// @dev Items of one payer and signer that follow each other are a run: its account and signer are read once when it
/// opens and written once when it closes. A channel is read and written by each item.
abstract contract EscrowItems is EscrowState {
    /// @dev Bytes of one packed item: payer 20, signer 20, lane 4, cumulative 12, covered 12, r 32, vs 32.
    uint256 internal constant ITEM_SIZE = 132;

    /// @dev What a run may take, and what it took so far. Words, since each item reads most of them.
    /// @param balance What is left of the payer's pooled balance.
    /// @param pooled What was taken from it.
    /// @param reserves Whether the payer's reservations must be looked at.
    /// @param reserved What was taken from them.
    /// @param session Whether a session signer signs, not the payer.
    /// @param expiry The session signer's.
    /// @param capLeft What its cap leaves.
    /// @param counted What counts against the cap of what was taken.
    struct Run {
        uint256 balance;
        uint256 pooled;
        bool reserves;
        uint256 reserved;
        bool session;
        uint256 expiry;
        uint256 capLeft;
        uint256 counted;
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
        Voucher memory voucher;
        voucher.node = node;
        for (uint256 i; i < count; ++i) {
            uint256 place = _itemAt(items, i);
            _readItem(run, voucher, place, i == 0);
            (uint256 before, uint256 amount, SkipReason reason) = _payItem(run, voucher, place, domain);
            if (amount == 0) {
                _skip(node, receiptsRoot, i, reason);
            } else {
                _appendRange(ranges, voucher, before, before + amount);
                paid += amount;
            }
        }
        _closeRun(run, voucher);
    }

    /// @dev As `_collectItems` for one voucher, whose payer may be a contract.
    function _collectOne(Voucher memory voucher, uint256 covered, bytes calldata signature, bytes32 receiptsRoot)
        internal
        returns (bytes memory ranges, uint256 paid)
    {
        ranges = _emptyRanges(1);
        Run memory run;
        _openRun(run, voucher);
        (bytes32 key, uint256 before, uint256 wanted, SkipReason reason) = _due(run, voucher, covered);
        if (wanted != 0 && !_isSigned(voucher, signature)) (wanted, reason) = (0, SkipReason.BadSignature);
        if (wanted != 0) paid = _take(run, voucher, key, before, wanted);
        if (paid == 0) {
            _skip(voucher.node, receiptsRoot, 0, reason);
        } else {
            _appendRange(ranges, voucher, before, before + paid);
            _closeRun(run, voucher);
        }
    }

    /// @dev Pays one item. A later item for the same channel sees what the earlier one did.
    function _payItem(Run memory run, Voucher memory voucher, uint256 place, bytes32 domain)
        private
        returns (uint256 before, uint256 amount, SkipReason reason)
    {
        bytes32 key;
        (key, before, amount, reason) = _due(run, voucher, _coveredAt(place));
        if (amount == 0) return (before, 0, reason);
        (bytes32 r, bytes32 vs) = _signatureAt(place);
        address recovered = Signatures.recover(Signatures.digest(domain, voucher.hash()), r, vs);
        if (recovered == address(0) || recovered != voucher.signer) return (before, 0, SkipReason.BadSignature);
        amount = _take(run, voucher, key, before, amount);
    }

    /// @dev What an item asks for beyond what its channel has paid, if its signer may ask; else why nothing.
    function _due(Run memory run, Voucher memory voucher, uint256 covered)
        private
        view
        returns (bytes32 key, uint256 before, uint256 wanted, SkipReason reason)
    {
        key = channelKey(voucher.payer, voucher.signer, voucher.node, voucher.lane);
        before = _channels[key];
        uint256 upto = voucher.cumulative;
        if (covered < upto) upto = covered;
        if (upto <= before) return (key, before, 0, SkipReason.NothingDue);
        if (run.session) {
            if (run.expiry == 0) return (key, before, 0, SkipReason.UnknownSigner);
            if (block.timestamp > run.expiry) return (key, before, 0, SkipReason.SignerExpired);
        }
        return (key, before, upto - before, SkipReason.NothingDue);
    }

    /// @dev A contract that pays signs for itself by ERC-1271; keys sign as in a batch.
    function _isSigned(Voucher memory voucher, bytes calldata signature) private view returns (bool) {
        bytes32 digest = Signatures.digest(domainSeparator(), voucher.hash());
        address by = voucher.signer;
        if (by != address(0) && signature.length == 64 && Signatures.recover(digest, signature) == by) return true;
        return by == voucher.payer && by.code.length != 0
            && SignatureChecker.isValidERC1271SignatureNow(by, digest, signature);
    }

    /// @dev Takes up to `wanted`: first from what the signer reserved (its cap has counted that already), then, within
    /// the cap, from what the payer reserved, then from the pooled balance. Moves the channel by as much.
    function _take(Run memory run, Voucher memory voucher, bytes32 key, uint256 before, uint256 wanted)
        private
        returns (uint256 amount)
    {
        if (run.session) {
            if (run.reserves) amount = _takeReserved(run, voucher, voucher.signer, wanted);
            wanted = Math.min(wanted - amount, run.capLeft);
        }
        uint256 counted = run.reserves ? _takeReserved(run, voucher, address(0), wanted) : 0;
        uint256 pooled = Math.min(wanted - counted, run.balance);
        counted += pooled;
        run.balance -= pooled;
        run.pooled += pooled;
        if (run.session) {
            run.capLeft -= counted;
            run.counted += counted;
        }
        amount += counted;
        if (amount != 0) _channels[key] = before + amount;
    }

    function _takeReserved(Run memory run, Voucher memory voucher, address signer_, uint256 wanted)
        private
        returns (uint256 taken)
    {
        Set storage set = _reservations[voucher.payer][voucher.node][signer_];
        taken = Math.min(wanted, set.remaining);
        set.remaining -= uint96(taken);
        run.reserved += taken;
    }

    function _openRun(Run memory run, Voucher memory voucher) private view {
        Account storage a = _accounts[voucher.payer];
        run.balance = a.balance;
        run.reserves = a.reserves;
        run.session = voucher.signer != voucher.payer;
        (run.pooled, run.counted, run.reserved) = (0, 0, 0);
        if (!run.session) return;
        Signer storage s = _signers[voucher.payer][voucher.signer];
        (uint256 cap, uint256 used) = (s.cap, s.used);
        run.expiry = s.expiry;
        run.capLeft = cap > used ? cap - used : 0;
    }

    /// @dev Writes what the run took: until here only channels and reservations know.
    function _closeRun(Run memory run, Voucher memory voucher) private {
        Account storage a = _accounts[voucher.payer];
        if (run.pooled != 0) _debit(a, uint96(run.pooled));
        if (run.reserved != 0) {
            a.reserved -= uint96(run.reserved);
            if (a.reserved == 0) a.reserves = false;
        }
        if (run.counted != 0) _signers[voucher.payer][voucher.signer].used += uint96(run.counted);
    }

    /// @dev Reads the packed item at `place` into the voucher; another payer or signer ends the run and opens the next.
    function _readItem(Run memory run, Voucher memory voucher, uint256 place, bool first) private {
        address payer;
        address signer_;
        uint256 tail;
        assembly ("memory-safe") {
            payer := shr(96, calldataload(place))
            signer_ := shr(96, calldataload(add(place, 20)))
            tail := calldataload(add(place, 40))
        }
        if (first || payer != voucher.payer || signer_ != voucher.signer) {
            if (!first) _closeRun(run, voucher);
            voucher.payer = payer;
            voucher.signer = signer_;
            _openRun(run, voucher);
        }
        voucher.lane = uint32(tail >> 224);
        voucher.cumulative = uint96(tail >> 128);
    }

    /// @dev Where in the calldata the item at `index` begins, which the caller knows to lie inside `items`.
    function _itemAt(bytes calldata items, uint256 index) private pure returns (uint256 place) {
        assembly ("memory-safe") {
            place := add(items.offset, mul(index, ITEM_SIZE))
        }
    }

    function _coveredAt(uint256 place) private pure returns (uint256 covered) {
        assembly ("memory-safe") {
            covered := shr(160, calldataload(add(place, 56)))
        }
    }

    function _signatureAt(uint256 place) private pure returns (bytes32 r, bytes32 vs) {
        assembly ("memory-safe") {
            r := calldataload(add(place, 68))
            vs := calldataload(add(place, 100))
        }
    }

    function _skip(address node, bytes32 receiptsRoot, uint256 index, SkipReason reason) private {
        emit ItemSkipped(node, receiptsRoot, index, reason);
    }

    /// @dev Room for `count` ranges; the last word of the last one reaches 4 bytes beyond it.
    function _emptyRanges(uint256 count) private pure returns (bytes memory ranges) {
        ranges = new bytes(count * RANGE_SIZE + 4);
        assembly ("memory-safe") {
            mstore(ranges, 0)
        }
    }

    /// @dev Appends a packed range; the room for it was allocated.
    function _appendRange(bytes memory ranges, Voucher memory voucher, uint256 before, uint256 upto) private pure {
        (address payer, address signer_) = (voucher.payer, voucher.signer);
        uint256 tail = (uint256(voucher.lane) << 224) | (before << 128) | (upto << 32);
        assembly ("memory-safe") {
            let length := mload(ranges)
            let at := add(add(ranges, 32), length)
            mstore(at, shl(96, payer))
            mstore(add(at, 20), shl(96, signer_))
            mstore(add(at, 40), tail)
            mstore(ranges, add(length, RANGE_SIZE))
        }
    }
}
