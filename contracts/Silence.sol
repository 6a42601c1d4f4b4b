// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

import {SafeTransferLib} from "solady/src/utils/SafeTransferLib.sol";

import {ChallengeLocks} from "./base/ChallengeLocks.sol";
import {IAudits} from "./interfaces/IAudits.sol";
import {IEscrow} from "./interfaces/IEscrow.sol";
import {IFaults} from "./interfaces/IFaults.sol";
import {IRegistry} from "./interfaces/IRegistry.sol";
import {AnswerHead, ISilence} from "./interfaces/ISilence.sol";
import {IStaking} from "./interfaces/IStaking.sol";
import {AuditPoints} from "./libraries/AuditPoints.sol";
import {Billing} from "./libraries/Billing.sol";
import {Merkle} from "./libraries/Merkle.sol";
import {Signatures} from "./libraries/Signatures.sol";
import {TokenTrees} from "./libraries/TokenTrees.sol";
import {Commit} from "./types/Commit.sol";
import {Range, channelKey, rangeAt} from "./types/Range.sol";

/// @notice See ISilence.
contract Silence is ChallengeLocks {
    using TokenTrees for TokenTrees.Tree;

    uint8 private constant HEAD = 0;
    uint8 private constant OUTPUT = 3;
    uint8 private constant WHOLE = 4;

    IAudits private immutable AUDITS;
    address private immutable ASSET;

    SilenceParameters private _silence;
    mapping(bytes32 challengeId => Challenge) private _challenges;
    mapping(bytes32 challengeId => Expected) private _expected;
    mapping(bytes32 challengeId => mapping(uint8 tree => TokenTrees.Tree)) private _trees;
    /// @inheritdoc ISilence
    mapping(address account => uint256) public credit;

    constructor(
        IEscrow escrow,
        IStaking staking,
        IRegistry registry,
        IAudits audits,
        SilenceParameters memory chosen
    ) ChallengeLocks(escrow, staking, registry) {
        AUDITS = audits;
        ASSET = escrow.asset();
        _silence = chosen;
    }

    /// @inheritdoc ISilence
    function challenge(Commit calldata c, bytes calldata ranges, uint256 rangeIndex, uint256 k)
        external
        returns (bytes32 id)
    {
        require(ESCROW.isCommit(c), SilenceUnknownCommit(c.id));
        require(keccak256(ranges) == c.rangesHash, SilenceWrongRanges(c.rangesHash, keccak256(ranges)));
        uint256 windowEnd = uint256(c.time) + _silence.windowSeconds;
        require(block.timestamp <= windowEnd, SilenceWindowClosed(windowEnd, block.timestamp));
        Range memory range = rangeAt(ranges, rangeIndex);
        bytes32 channel = range.channelKeyOf(c.node);
        uint96 point = _drawnPoint(c, range, channel, k);
        id = keccak256(abi.encode(c.id, channel, k));
        Challenge storage opened = _challenges[id];
        require(opened.status == ChallengeStatus.None, SilenceAlreadyChallenged(id));

        opened.challenger = msg.sender;
        opened.deadline = uint40(block.timestamp) + _silence.answerSeconds;
        opened.status = ChallengeStatus.Open;
        opened.byPayer = _enter(range.payer, c, _silence);
        opened.node = c.node;
        opened.owner = c.owner;
        opened.point = point;
        opened.commitId = c.id;
        opened.channel = channel;
        opened.receiptsRoot = c.receiptsRoot;

        emit Challenged(id, c.node, msg.sender, c.id, channel, point, opened.deadline);

        _lock(c, ranges);
        SafeTransferLib.safeTransferFrom(ASSET, msg.sender, address(this), _silence.bond);
    }

    /// @inheritdoc ISilence
    function answer(bytes32 challengeId, bytes calldata data) external {
        Challenge storage open = _checkOpen(challengeId);
        require(REGISTRY.isDelegate(open.owner, msg.sender), SilenceNotDelegate(open.owner, msg.sender));
        require(block.timestamp <= open.deadline, SilenceTooLate(open.deadline, block.timestamp));

        open.bytesPosted += uint32(data.length);
        if (open.tree == HEAD) _acceptHead(challengeId, open, data);
        else _acceptTokens(challengeId, open, data);

        if (open.tree == WHOLE) {
            _repay(challengeId, open);
            return;
        }
        uint40 deadline = uint40(block.timestamp) + _silence.partSeconds;
        if (deadline > open.deadline) open.deadline = deadline;
        emit AnswerPart(challengeId, open.tree, open.done, open.deadline);
    }

    /// @inheritdoc ISilence
    function timeout(bytes32 challengeId) external {
        Challenge storage open = _checkOpen(challengeId);
        require(block.timestamp > open.deadline, SilenceStillTime(open.deadline, block.timestamp));

        open.status = ChallengeStatus.Slashed;
        uint96 tip = _silence.tip < _silence.bond ? _silence.tip : _silence.bond;
        _credit(msg.sender, tip);
        _credit(open.challenger, _silence.bond - tip);
        uint96 slashed = _punish(open, _silence);
        _leave(open);
        emit SilenceSlashed(challengeId, open.owner, slashed);
    }

    /// @inheritdoc ISilence
    function withdrawCredit() external returns (uint256 amount) {
        amount = credit[msg.sender];
        require(amount > 0, SilenceNoCredit(msg.sender));
        credit[msg.sender] = 0;
        emit CreditWithdrawn(msg.sender, amount);
        SafeTransferLib.safeTransfer(ASSET, msg.sender, amount);
    }

    /// @inheritdoc ISilence
    function challengeOf(bytes32 challengeId) external view returns (Challenge memory) {
        return _challenges[challengeId];
    }

    /// @inheritdoc ISilence
    function expectedOf(bytes32 challengeId) external view returns (Expected memory) {
        return _expected[challengeId];
    }

    /// @inheritdoc ISilence
    function silenceParameters() external view returns (SilenceParameters memory) {
        return _silence;
    }

    /// @dev The head: the receipt that covers the point, under the root, and what its request hashes to.
    function _acceptHead(bytes32 id, Challenge storage open, bytes calldata data) private {
        AnswerHead memory head = abi.decode(data, (AnswerHead));
        bytes32 domain = ESCROW.domainSeparator();
        bytes32 receiptDigest = Signatures.digest(domain, head.receipt.hash());
        bytes32 key = channelKey(head.receipt.payer, head.receipt.signer, head.receipt.node, head.receipt.lane);
        bool covers = key == open.channel && head.receipt.cumFrom <= open.point && open.point < head.receipt.cumTo;
        bytes32 leaf = Merkle.leaf(bytes.concat(receiptDigest, head.signature));
        require(
            covers && Merkle.verify(open.receiptsRoot, leaf, head.index, head.count, head.count, head.proof),
            SilenceWrongReceipt(receiptDigest)
        );
        Signatures.check(receiptDigest, head.signature, open.node);
        _checkRequest(head, domain);
        // What the payer forbade to audit is not published: its signed request alone ends the challenge.
        if (!head.request.auditConsent) {
            open.tree = WHOLE;
            return;
        }
        bytes32 promptHash = keccak256(bytes.concat(head.request.nonce, head.prompt));
        require(promptHash == head.request.promptHash, SilenceWrongPreimage(head.request.promptHash, promptHash));
        bytes32 paramsHash = keccak256(head.params);
        require(paramsHash == head.request.paramsHash, SilenceWrongPreimage(head.request.paramsHash, paramsHash));

        _expected[id] = Expected({
            promptTokens: head.receipt.promptTokens,
            prefixTokens: head.receipt.outputFrom,
            outputTokens: head.receipt.outputTo - head.receipt.outputFrom,
            promptRoot: head.receipt.promptRoot,
            prefixRoot: head.receipt.prefixRoot,
            outputRoot: head.receipt.outputRoot
        });
        _nextTree(id, open);
    }

    /// @dev The request that the receipt names, of its payer, signed, and for just this receipt: any other would end the
    /// challenge of a receipt for which nobody ever asked.
    function _checkRequest(AnswerHead memory head, bytes32 domain) private pure {
        bytes32 jobId = Signatures.digest(domain, head.request.hash());
        require(jobId == head.receipt.jobId, SilenceWrongPreimage(head.receipt.jobId, jobId));
        Signatures.check(jobId, head.requestSignature, head.request.signer);
        bytes32 offerHash = Signatures.digest(domain, head.offer.hash());
        require(offerHash == head.receipt.offerHash, SilenceWrongPreimage(head.receipt.offerHash, offerHash));
        IFaults.Deviation found = Billing.deviation(head.receipt, head.offer, head.request);
        require(found == IFaults.Deviation.None, SilenceForeignRequest(jobId, found));
    }

    function _acceptTokens(bytes32 id, Challenge storage open, bytes calldata data) private {
        (uint32 total, bytes32 expected) = _treeOf(id, open.tree);
        uint256 size = open.tree == OUTPUT ? TokenTrees.OUTPUT_SIZE : TokenTrees.ID_SIZE;
        uint32 left = total - open.done;
        uint256 given = data.length / size;
        bool ends = given == left;
        bool whole = given >= _silence.partTokens && given < left && given % TokenTrees.CHUNK == 0;
        require(data.length % size == 0 && (ends || whole), SilencePartSize(data.length, left, _silence.partTokens));

        TokenTrees.Tree storage tree = _trees[id][open.tree];
        uint256 first = open.tree == OUTPUT ? _expected[id].prefixTokens : 0;
        tree.append(data, first, open.done, size);
        open.done += uint32(given);
        if (!ends) return;
        bytes32 root = tree.root(total);
        require(root == expected, SilenceWrongTokens(open.tree, expected, root));
        _nextTree(id, open);
    }

    /// @dev Goes on to the next tree that has tokens.
    function _nextTree(bytes32 id, Challenge storage open) private {
        uint8 tree = open.tree;
        uint32 total;
        do {
            (total,) = _treeOf(id, ++tree);
        } while (tree < WHOLE && total == 0);
        open.tree = tree;
        open.done = 0;
    }

    function _repay(bytes32 id, Challenge storage open) private {
        open.status = ChallengeStatus.Answered;
        uint256 kilobytes = (uint256(open.bytesPosted) + 1023) / 1024;
        uint256 owed = uint256(_silence.answerFee) + kilobytes * _silence.answerFeePerKilobyte;
        uint96 compensation = owed < _silence.bond ? uint96(owed) : _silence.bond;
        _credit(msg.sender, compensation);
        _credit(open.challenger, _silence.bond - compensation);
        emit Answered(id, msg.sender, compensation);
        _leave(open);
    }

    function _credit(address account, uint256 amount) private {
        if (amount == 0) return;
        credit[account] += amount;
        emit Credited(account, amount);
    }

    function _treeOf(bytes32 id, uint8 tree) private view returns (uint32 total, bytes32 root) {
        Expected storage expected = _expected[id];
        if (tree == 1) return (expected.promptTokens, expected.promptRoot);
        if (tree == 2) return (expected.prefixTokens, expected.prefixRoot);
        if (tree == OUTPUT) return (expected.outputTokens, expected.outputRoot);
    }

    function _drawnPoint(Commit calldata c, Range memory range, bytes32 channel, uint256 k)
        private
        view
        returns (uint96)
    {
        bytes32 seed = AUDITS.seedOf(c.id);
        require(seed != bytes32(0), SilenceSeedNotFixed(c.id));
        uint256 point = AuditPoints.pointAt(seed, channel, k, c.step);
        require(range.before <= point && point < range.upto, SilencePointOutside(point, range.before, range.upto));
        return uint96(point);
    }

    function _checkOpen(bytes32 challengeId) private view returns (Challenge storage open) {
        open = _challenges[challengeId];
        require(open.status == ChallengeStatus.Open, SilenceNotOpen(challengeId, open.status));
    }
}
