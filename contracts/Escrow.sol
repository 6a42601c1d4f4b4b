// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

import {Ownable} from "@openzeppelin/contracts/access/Ownable.sol";
import {IERC20} from "@openzeppelin/contracts/token/ERC20/IERC20.sol";
import {Math} from "@openzeppelin/contracts/utils/math/Math.sol";
import {SafeCast} from "@openzeppelin/contracts/utils/math/SafeCast.sol";

import {EscrowAccounts} from "./base/EscrowAccounts.sol";
import {EscrowHolds} from "./base/EscrowHolds.sol";
import {EscrowItems} from "./base/EscrowItems.sol";
import {EscrowState} from "./base/EscrowState.sol";
import {Pause} from "./base/Pause.sol";
import {IEscrow} from "./interfaces/IEscrow.sol";
import {IRandomness} from "./interfaces/IRandomness.sol";
import {IRegistry} from "./interfaces/IRegistry.sol";
import {IStaking} from "./interfaces/IStaking.sol";
import {Commit} from "./types/Commit.sol";
import {channelKey} from "./types/Range.sol";
import {Voucher} from "./types/Voucher.sol";

/// @notice See IEscrow.
contract Escrow is EscrowAccounts, EscrowItems, EscrowHolds {
    using SafeCast for uint256;

    uint256 private constant PPM = 1_000_000;

    /// @inheritdoc IEscrow
    mapping(uint64 commitId => bytes32) public commitWord;

    constructor(
        IERC20 asset_,
        address contractOwner,
        address guardian_,
        IStaking staking,
        IRegistry registry,
        IRandomness randomness,
        Parameters memory parameters_
    ) EscrowState(asset_, staking, registry, randomness, parameters_) Pause(guardian_) Ownable(contractOwner) {}

    /// @inheritdoc IEscrow
    function collect(address node, bytes calldata items, bytes32 receiptsRoot)
        external
        nonReentrant
        returns (uint64 commitId)
    {
        require(items.length != 0 && items.length % ITEM_SIZE == 0, EscrowMalformedItems(items.length));
        Commit memory commit = _commitFor(node, receiptsRoot);
        (bytes memory ranges, uint256 paid) = _collectItems(node, items, receiptsRoot);
        return _settle(commit, paid.toUint96(), ranges);
    }

    /// @inheritdoc IEscrow
    function collectOne(Voucher calldata voucher, uint96 covered, bytes calldata signature, bytes32 receiptsRoot)
        external
        nonReentrant
        returns (uint64 commitId)
    {
        Commit memory commit = _commitFor(voucher.node, receiptsRoot);
        (bytes memory ranges, uint256 paid) = _collectOne(voucher, covered, signature, receiptsRoot);
        return _settle(commit, paid.toUint96(), ranges);
    }

    /// @inheritdoc IEscrow
    function channel(address payer, address signer_, address node, uint32 lane) external view returns (uint96) {
        return uint96(_channels[channelKey(payer, signer_, node, lane)].collected);
    }

    /// @inheritdoc IEscrow
    function isCommit(Commit calldata commit) external view returns (bool) {
        bytes32 word = commitWord[commit.id];
        Commit memory shown = commit;
        return word != bytes32(0) && word == shown.hash();
    }

    /// @dev The commit that the caller may make for a node, with the terms of its owner's audit level.
    function _commitFor(address node, bytes32 receiptsRoot) private view returns (Commit memory commit) {
        require(receiptsRoot != bytes32(0), EscrowZeroRoot());
        bool allowed;
        (commit.owner, commit.step, commit.sharePpm, allowed) = REGISTRY.commitTerms(node, msg.sender);
        require(commit.owner != address(0), EscrowUnknownNode(node));
        require(allowed, EscrowNotCollector(commit.owner, msg.sender));
        commit.node = node;
        commit.receiptsRoot = receiptsRoot;
    }

    /// @dev Splits what was paid and stores the commit; nothing paid, none made. The audit share is rounded up:
    /// verifiers are not paid from rounding in the node's favour.
    function _settle(Commit memory commit, uint96 paid, bytes memory ranges) private returns (uint64 commitId) {
        if (paid == 0) return 0;
        uint96 auditShare = uint96(Math.ceilDiv(uint256(paid) * commit.sharePpm, PPM));
        commitId = _nextCommit(auditShare);
        commit.id = commitId;
        commit.rangesHash = keccak256(ranges);
        commit.seedBlock = uint64(RANDOMNESS.currentBlock() + SEED_DELAY);
        commit.time = uint40(block.timestamp);
        commitWord[commitId] = commit.hash();
        uint96 held = _payOwner(commit.owner, paid - auditShare);
        emit Collected(
            commitId,
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
}
