// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

import {IERC20} from "@openzeppelin/contracts/token/ERC20/IERC20.sol";
import {Math} from "@openzeppelin/contracts/utils/math/Math.sol";

import {EscrowAccounts} from "./base/EscrowAccounts.sol";
import {EscrowHolds} from "./base/EscrowHolds.sol";
import {EscrowState} from "./base/EscrowState.sol";
import {IEscrow} from "./interfaces/IEscrow.sol";
import {IRandomness} from "./interfaces/IRandomness.sol";
import {IRegistry} from "./interfaces/IRegistry.sol";
import {IStaking} from "./interfaces/IStaking.sol";
import {Signatures} from "./libraries/Signatures.sol";
import {Commit} from "./types/Commit.sol";
import {channelKey, RANGE_SIZE} from "./types/Range.sol";
import {Voucher} from "./types/Voucher.sol";

/// @notice See IEscrow.
contract Escrow is EscrowAccounts, EscrowHolds {
    uint256 private constant ITEM_SIZE = 132;
    uint256 private constant PPM = 1_000_000;

    struct Item {
        address payer;
        address signer;
        uint32 lane;
        uint96 cumulative;
        uint96 covered;
        bytes32 r;
        bytes32 vs;
    }

    /// @inheritdoc IEscrow
    mapping(uint64 commitId => bytes32) public commitWord;

    constructor(
        IERC20 asset_,
        IStaking staking,
        IRegistry registry,
        IRandomness randomness,
        Parameters memory parameters_
    ) EscrowState(asset_, staking, registry, randomness, parameters_) {}

    /// @inheritdoc IEscrow
    function collect(address node, bytes calldata items, bytes32 receiptsRoot)
        external
        nonReentrant
        returns (uint64 commitId)
    {
        require(items.length != 0 && items.length % ITEM_SIZE == 0, EscrowMalformedItems(items.length));
        require(receiptsRoot != bytes32(0), EscrowZeroRoot());
        Commit memory commit;
        bool allowed;
        (commit.owner, commit.step, commit.sharePpm, allowed) = REGISTRY.commitTerms(node, msg.sender);
        require(commit.owner != address(0), EscrowUnknownNode(node));
        require(allowed, EscrowNotCollector(commit.owner, msg.sender));
        (bytes memory ranges, uint96 paid) = _collectItems(node, items, receiptsRoot);
        if (paid == 0) return 0;

        commitId = ++commitCount;
        commit.id = commitId;
        commit.node = node;
        commit.receiptsRoot = receiptsRoot;
        commit.rangesHash = keccak256(ranges);
        commit.seedBlock = uint64(RANDOMNESS.currentBlock() + SEED_DELAY);
        commit.time = uint40(block.timestamp);
        commitWord[commitId] = commit.hash();
        _settle(commit, paid, ranges);
    }

    /// @inheritdoc IEscrow
    function channel(address payer, address signer_, address node, uint32 lane) external view returns (uint96) {
        return _channels[channelKey(payer, signer_, node, lane)];
    }

    /// @inheritdoc IEscrow
    function isCommit(Commit calldata commit) external view returns (bool) {
        bytes32 word = commitWord[commit.id];
        Commit memory shown = commit;
        return word != bytes32(0) && word == shown.hash();
    }

    /// @dev The audit share is rounded up: verifiers are not paid from rounding in the node's favour.
    function _settle(Commit memory commit, uint96 paid, bytes memory ranges) private {
        uint96 auditShare = uint96(Math.mulDiv(paid, commit.sharePpm, PPM, Math.Rounding.Ceil));
        auditPool += auditShare;
        uint96 held = _payOwner(commit.owner, paid - auditShare);
        emit Collected(
            commit.id,
            commit.node,
            commit.owner,
            commit.receiptsRoot,
            commit.step,
            commit.sharePpm,
            commit.seedBlock,
            commit.time,
            paid,
            auditShare,
            held,
            ranges
        );
    }

    /// @return ranges What each item moved in its channel, packed.
    /// @return paid The sum.
    function _collectItems(address node, bytes calldata items, bytes32 receiptsRoot)
        private
        returns (bytes memory ranges, uint96 paid)
    {
        uint256 count = items.length / ITEM_SIZE;
        // The last word of the last range reaches 4 bytes beyond it.
        ranges = new bytes(count * RANGE_SIZE + 4);
        bytes32 domain = domainSeparator();
        Item memory item;
        uint256 length;
        for (uint256 i; i < count; ++i) {
            _readItem(item, items, i * ITEM_SIZE);
            (uint96 before, uint96 amount, SkipReason reason) = _collectItem(node, item, domain);
            if (amount == 0) {
                emit ItemSkipped(node, receiptsRoot, i, reason);
                continue;
            }
            _writeRange(ranges, length, item, before, before + amount);
            length += RANGE_SIZE;
            paid += amount;
        }
        assembly ("memory-safe") {
            mstore(ranges, length)
        }
    }

    /// @dev Pays one item. A later item for the same channel sees what the earlier one did.
    function _collectItem(address node, Item memory item, bytes32 domain)
        private
        returns (uint96 before, uint96 amount, SkipReason reason)
    {
        bytes32 key = channelKey(item.payer, item.signer, node, item.lane);
        before = _channels[key];
        uint96 upto = item.cumulative < item.covered ? item.cumulative : item.covered;
        if (upto <= before) return (before, 0, SkipReason.NothingDue);
        if (item.signer != item.payer) {
            uint40 expiry = _signers[item.payer][item.signer].expiry;
            if (expiry == 0) return (before, 0, SkipReason.UnknownSigner);
            if (block.timestamp > expiry) return (before, 0, SkipReason.SignerExpired);
        }
        bytes32 structHash = Voucher(item.payer, item.signer, node, item.lane, item.cumulative).hash();
        address recovered = Signatures.recover(Signatures.digest(domain, structHash), item.r, item.vs);
        if (recovered == address(0) || recovered != item.signer) return (before, 0, SkipReason.BadSignature);
        amount = _takeFunds(node, item, upto - before);
        if (amount == 0) return (before, 0, SkipReason.NothingDue);
        _channels[key] = before + amount;
    }

    /// @dev Takes up to `wanted`: first from what the signer reserved (its cap has counted that already), then, within
    /// the cap, from what the payer reserved, then from the pooled balance.
    function _takeFunds(address node, Item memory item, uint96 wanted) private returns (uint96 amount) {
        Account storage a = _accounts[item.payer];
        bool session = item.signer != item.payer;
        bool reserves = a.reserves;
        uint96 reserved;
        if (session && reserves) reserved = _takeReserved(item.payer, node, item.signer, wanted);
        uint96 rest = wanted - reserved;
        Signer storage s = _signers[item.payer][item.signer];
        if (session) rest = uint96(Math.min(rest, s.cap > s.used ? s.cap - s.used : 0));
        uint96 counted = reserves ? _takeReserved(item.payer, node, address(0), rest) : 0;
        reserved += counted;
        uint96 pooled = uint96(Math.min(rest - counted, a.balance));
        if (pooled != 0) _debit(a, pooled);
        if (reserved != 0) {
            a.reserved -= reserved;
            if (a.reserved == 0) a.reserves = false;
        }
        if (session && counted + pooled != 0) s.used += counted + pooled;
        return reserved + pooled;
    }

    function _takeReserved(address payer, address node, address signer_, uint96 wanted) private returns (uint96 taken) {
        Set storage set = _reservations[payer][node][signer_];
        taken = uint96(Math.min(wanted, set.remaining));
        if (taken != 0) set.remaining -= taken;
    }

    /// @dev Reads the packed item at `offset`, which the caller knows to lie inside `items`.
    function _readItem(Item memory item, bytes calldata items, uint256 offset) private pure {
        bytes32 first;
        bytes32 second;
        bytes32 third;
        bytes32 r;
        bytes32 vs;
        assembly ("memory-safe") {
            let at := add(items.offset, offset)
            first := calldataload(at)
            second := calldataload(add(at, 20))
            third := calldataload(add(at, 40))
            r := calldataload(add(at, 68))
            vs := calldataload(add(at, 100))
        }
        item.payer = address(bytes20(first));
        item.signer = address(bytes20(second));
        item.lane = uint32(bytes4(third));
        item.cumulative = uint96(bytes12(third << 32));
        item.covered = uint96(bytes12(third << 128));
        item.r = r;
        item.vs = vs;
    }

    /// @dev Writes a packed range at `offset`; the room for it was allocated.
    function _writeRange(bytes memory ranges, uint256 offset, Item memory item, uint96 before, uint96 upto)
        private
        pure
    {
        (address payer, address signer_) = (item.payer, item.signer);
        uint256 tail = (uint256(item.lane) << 224) | (uint256(before) << 128) | (uint256(upto) << 32);
        assembly ("memory-safe") {
            let at := add(add(ranges, 32), offset)
            mstore(at, shl(96, payer))
            mstore(add(at, 20), shl(96, signer_))
            mstore(add(at, 40), tail)
        }
    }
}
