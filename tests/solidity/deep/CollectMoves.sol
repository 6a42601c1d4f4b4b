// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

import {IEscrow} from "../../../contracts/interfaces/IEscrow.sol";
import {OPERATOR} from "../../../contracts/types/Role.sol";
import {channelKey} from "../../../contracts/types/Range.sol";
import {Voucher} from "../../../contracts/types/Voucher.sol";
import {Ghosts} from "./Ghosts.sol";
import {amountUpTo, bound} from "./Vm.sol";

/// @notice Owners' moves: collecting with good and bad items, held credit, the audit pool.
abstract contract CollectMoves is Ghosts {
    uint256 private constant PPM = 1_000_000;

    /// @dev Each item is one word of chance: payer, session or not, lane, forged or not, amounts.
    function collect(uint256 node, uint256[3] memory chances, uint256 count, uint256 byStranger) external {
        node %= 2;
        bool stranger = byStranger % 16 == 0;
        (bytes memory items, uint256 paid) = _makeItems(_node(node), chances, count % 3 + 1, !stranger);
        bytes memory data = abi.encodeCall(IEscrow.collect, (_node(node), items, bytes32("root")));
        address sender = stranger ? _owner(1 - node) : byStranger % 2 == 0 ? _owner(node) : _node(node);
        (, uint32 sharePpm) = registry.auditLevel(_owner(node));
        bytes memory answer =
            _move(sender, address(escrow), data, stranger ? IEscrow.EscrowNotCollector.selector : bytes4(0));
        if (stranger) return;
        _settle(_owner(node), paid, sharePpm, answer);
    }

    /// @notice The single path, by the one who is paid.
    function collectOne(uint256 node, uint256 chance) external {
        node %= 2;
        (bytes memory packed, uint256 paid) = _makeItem(_node(node), chance, true);
        (, uint32 sharePpm) = registry.auditLevel(_owner(node));
        bytes memory answer = _move(_owner(node), address(escrow), this.single(_node(node), packed), bytes4(0));
        _settle(_owner(node), paid, sharePpm, answer);
    }

    /// @notice The call of the single path for a packed item.
    function single(address node, bytes calldata item) external pure returns (bytes memory) {
        Voucher memory v = Voucher({
            payer: address(bytes20(item[0:20])),
            signer: address(bytes20(item[20:40])),
            node: node,
            lane: uint32(bytes4(item[40:44])),
            cumulative: uint96(bytes12(item[44:56]))
        });
        return abi.encodeCall(IEscrow.collectOne, (v, uint96(bytes12(item[56:68])), item[68:132], bytes32("root")));
    }

    function collectMalformed(uint256 node, uint256 cut) external {
        bytes memory items = _item(Voucher(_payer(0), _payer(0), _node(node % 2), 0, DOLLAR), DOLLAR, PAYER);
        uint256 shorter = bound(cut, 0, items.length - 1);
        assembly ("memory-safe") {
            mstore(items, shorter)
        }
        bytes memory data = abi.encodeCall(IEscrow.collect, (_node(node % 2), items, bytes32("root")));
        _move(_node(node % 2), address(escrow), data, IEscrow.EscrowMalformedItems.selector);
    }

    function releaseHeld(uint256 who) external {
        address owner = _owner(who % 2);
        bytes4 refusal = _gHead[owner] == _gHeld[owner].length ? IEscrow.EscrowNothingHeld.selector : bytes4(0);
        _move(_payer(0), address(escrow), abi.encodeCall(IEscrow.releaseHeld, (owner)), refusal);
        if (refusal == bytes4(0)) _gCredit[owner] += _releaseHeld(owner);
    }

    function slashHeld(uint256 who, uint256 amount, uint256 by) external {
        address owner = _owner(who % 2);
        uint96 wanted = uint96(amountUpTo(amount, 40 * DOLLAR));
        bool allowed = by % 4 != 0;
        bytes memory data = abi.encodeCall(IEscrow.slashHeld, (owner, wanted));
        _move(
            allowed ? SLASHER : _payer(0), address(escrow), data, allowed ? bytes4(0) : IEscrow.EscrowNotSlasher.selector
        );
        uint256 left = allowed ? wanted : 0;
        for (; left != 0 && _gHead[owner] < _gHeld[owner].length;) {
            Payment storage entry = _gHeld[owner][_gHead[owner]];
            uint256 part = _min(left, entry.amount);
            entry.amount -= part;
            left -= part;
            _gStake[owner][OPERATOR].bonded += part;
            if (entry.amount == 0) ++_gHead[owner];
        }
    }

    function fundAuditPool(uint256 amount) external {
        uint96 value = uint96(amountUpTo(amount, DOLLAR));
        bytes4 refusal = value == 0 ? IEscrow.EscrowZeroAmount.selector : bytes4(0);
        _move(_payer(0), address(escrow), abi.encodeCall(IEscrow.fundAuditPool, (value)), refusal);
        _gPool += value;
    }

    function payFromAuditPool(uint256 to, uint256 amount, uint256 by) external {
        uint96 value = uint96(amountUpTo(amount, 20 * DOLLAR));
        bool allowed = by % 4 != 0;
        bytes memory data = abi.encodeCall(IEscrow.payFromAuditPool, (_payer(to % 2), value));
        _move(
            allowed ? SLASHER : _owner(0), address(escrow), data, allowed ? bytes4(0) : IEscrow.EscrowNotSlasher.selector
        );
        if (!allowed) return;
        uint256 paid = _min(value, _gPool);
        _gPool -= paid;
        _gCredit[_payer(to % 2)] += paid;
    }

    function withdrawCredit(uint256 who, bool isPayer, bool forAnother) external {
        address party = isPayer ? _payer(who % 2) : _owner(who % 2);
        uint256 due = _gCredit[party];
        uint256 before = asset.balanceOf(party);
        bytes memory data = forAnother
            ? abi.encodeCall(IEscrow.withdrawCreditOf, (party))
            : abi.encodeCall(IEscrow.withdrawCredit, ());
        bytes4 refusal = due == 0 ? IEscrow.EscrowNothingToWithdraw.selector : bytes4(0);
        _move(forAnother ? SLASHER : party, address(escrow), data, refusal);
        require(asset.balanceOf(party) == before + due, "a credit paid something else than was due");
        _gCredit[party] = 0;
    }

    function _makeItems(address node, uint256[3] memory chances, uint256 count, bool applied)
        private
        returns (bytes memory items, uint256 paid)
    {
        for (uint256 i; i < count; ++i) {
            (bytes memory packed, uint256 amount) = _makeItem(node, chances[i], applied);
            items = bytes.concat(items, packed);
            paid += amount;
        }
    }

    /// @return packed The item.
    /// @return amount What it should pay; the ghosts have paid it already if `applied`.
    function _makeItem(address node, uint256 chance, bool applied) private returns (bytes memory packed, uint256 amount) {
        uint256 who = chance & 1;
        bool session = chance & 2 != 0;
        bool forged = chance >> 3 & 7 == 0;
        Voucher memory v =
            Voucher(_payer(who), session ? _session(who) : _payer(who), node, uint32(chance >> 2 & 1), 0);
        bytes32 key = channelKey(v.payer, v.signer, node, v.lane);
        uint256 covered;
        (v.cumulative, covered) = _amounts(_gChannel[key], chance >> 6);
        packed = _item(v, uint96(covered), forged ? OWNER : session ? SESSION + who : PAYER + who);
        uint256 upto = _min(v.cumulative, covered);
        bool live = !session || block.timestamp <= _gSession[v.signer].expiry;
        if (!applied || forged || !live || upto <= _gChannel[key]) return (packed, 0);
        amount = _takeFunds(who, session, node, upto - _gChannel[key]);
        _gChannel[key] += amount;
    }

    /// @dev Mostly more than was collected and all covered; else receipts cover too little, or an old voucher comes.
    function _amounts(uint256 collected, uint256 chance) private pure returns (uint96 cumulative, uint256 covered) {
        cumulative = uint96(collected + amountUpTo(chance >> 2 & type(uint96).max, 30 * DOLLAR));
        covered = cumulative;
        if (chance & 3 == 0) covered = bound(chance >> 128, 0, cumulative + DOLLAR);
        if (chance & 3 == 1) cumulative = uint96(bound(chance >> 128, 0, cumulative));
    }

    /// @dev What the signer reserved first, which its cap has counted; then, within the cap, the payer's reservation,
    /// then the pooled balance.
    function _takeFunds(uint256 who, bool session, address node, uint256 wanted) private returns (uint256 taken) {
        GhostAccount storage a = _gAccount[_payer(who)];
        if (session) taken = _takeSet(who, node, _session(who), wanted);
        uint256 rest = wanted - taken;
        GhostSession storage s = _gSession[_session(who)];
        if (session) rest = _min(rest, s.cap > s.used ? s.cap - s.used : 0);
        uint256 shared = _takeSet(who, node, address(0), rest);
        uint256 pooled = _min(rest - shared, a.balance);
        a.balance -= pooled;
        a.thawing = _min(a.thawing, a.balance);
        if (session) s.used += shared + pooled;
        return taken + shared + pooled;
    }

    function _takeSet(uint256 who, address node, address signer, uint256 wanted) private returns (uint256 taken) {
        GhostSet storage set = _gSet[_payer(who)][node][signer];
        taken = _min(wanted, set.remaining);
        set.remaining -= taken;
        _gAccount[_payer(who)].reserved -= taken;
    }

    function _settle(address owner, uint256 paid, uint256 sharePpm, bytes memory answer) private {
        require(abi.decode(answer, (uint64)) == (paid == 0 ? 0 : _gCommits + 1), "another commit than the next");
        if (paid == 0) return;
        ++_gCommits;
        uint256 share = (paid * sharePpm + PPM - 1) / PPM;
        _gPool += share;
        _payOwner(owner, paid - share);
    }

    function _payOwner(address owner, uint256 amount) private {
        _gCredit[owner] += _releaseHeld(owner);
        uint256 direct = _gHead[owner] == _gHeld[owner].length ? _min(amount, _freeExposure(owner)) : 0;
        if (direct != 0) _gPaid[owner].push(Payment(direct, block.timestamp));
        _gCredit[owner] += direct;
        if (amount == direct) return;
        // What is held within a day after an entry's first money leaves with it.
        uint256 count = _gHeld[owner].length;
        bool joins = _gHead[owner] < count && block.timestamp < _gHeld[owner][count - 1].time + 1 days;
        if (joins) _gHeld[owner][count - 1].amount += amount - direct;
        else _gHeld[owner].push(Payment(amount - direct, block.timestamp));
    }

    function _releaseHeld(address owner) private returns (uint256 released) {
        for (uint256 i; i < 32 && _gHead[owner] < _gHeld[owner].length; ++i) {
            Payment storage entry = _gHeld[owner][_gHead[owner]];
            bool aged = _gStake[owner][OPERATOR].locks == 0 && block.timestamp >= entry.time + 21 days;
            uint256 part = aged ? entry.amount : _min(entry.amount, _freeExposure(owner));
            if (!aged && part != 0) _gPaid[owner].push(Payment(part, block.timestamp));
            released += part;
            entry.amount -= part;
            if (entry.amount != 0) break;
            ++_gHead[owner];
        }
    }

    function _exposure(address owner) internal view returns (uint256 sum) {
        Payment[] storage all = _gPaid[owner];
        for (uint256 i = all.length; i > 0; --i) {
            // It counts in its half window and in the two after that.
            if (all[i - 1].time / (3.5 days) + 2 < block.timestamp / (3.5 days)) break;
            sum += all[i - 1].amount;
        }
    }

    function _freeExposure(address owner) internal view returns (uint256) {
        GhostStake storage s = _gStake[owner][OPERATOR];
        uint256 free = s.bonded > s.locked ? s.bonded - s.locked : 0;
        uint256 cap = free * _stakingParameters().exposurePpm / PPM;
        uint256 used = _exposure(owner);
        return cap > used ? cap - used : 0;
    }
}
