// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

import {ITraps} from "../interfaces/ITraps.sol";
import {AuditPoints} from "../libraries/AuditPoints.sol";
import {Merkle} from "../libraries/Merkle.sol";
import {Signatures} from "../libraries/Signatures.sol";
import {Commit} from "../types/Commit.sol";
import {JobReceipt} from "../types/JobReceipt.sol";
import {Range, channelKey, rangeAt} from "../types/Range.sol";

/// @notice See ITraps.
abstract contract Traps is ITraps {
    /// @dev The fewest ids that a secret may choose from.
    uint32 private constant LEAST_TOKENS = 1 << 10;
    /// @dev Bytes of a position, and of 32 ids with their quantised logprobs.
    uint256 private constant POSITION_SIZE = 4;
    uint256 private constant FULL_LEAF_SIZE = 196;
    /// @dev The most ids of a prompt: they choose among fewer texts than the 320 bits that 32 planted ids are worth.
    uint32 private constant MOST_PROMPT_TOKENS = 16;
    /// @dev Where canonical params (R-30) say that no id is biased, between `frequencyPenalty` and `maxTokens`. A quote within
    /// a JSON string is escaped, so the first one here opens or closes a string; it closes none, since no letter follows a
    /// string. So it opens this key, and no other object has it: the only one within params is the bias, whose keys are ids.
    bytes16 private constant NO_BIAS = ',"logitBias":{},';

    /// @inheritdoc ITraps
    mapping(bytes32 hash => uint40) public plantedAt;
    mapping(uint64 commitId => bool) private _sprung;

    /// @inheritdoc ITraps
    function plantTrap(bytes32 hash) external {
        require(plantedAt[hash] == 0, TrapsAlreadyPlanted(hash));
        plantedAt[hash] = uint40(block.timestamp);
        emit TrapPlanted(hash, msg.sender);
    }

    /// @inheritdoc ITraps
    function springTrap(Commit calldata c, bytes calldata ranges, Sprung calldata sprung)
        external
        returns (uint96 slashed)
    {
        address verifier = _verifierOf(c, ranges, sprung.verdicts, sprung.salt);
        bytes32 hash = keccak256(abi.encode(msg.sender, sprung.secret));
        require(
            plantedAt[hash] != 0 && plantedAt[hash] < c.time, TrapsNotPlanted(hash, plantedAt[hash], c.time)
        );
        require(!_sprung[c.id], TrapsAlreadySprung(c.id));
        uint8 verdict = uint8(sprung.verdicts[_placeOf(c, ranges, sprung) * 9]);
        require(verdict == 1, TrapsVerdictRight(verdict));
        _checkBare(sprung.leaf.receipt, sprung);
        _checkPlanted(sprung.leaf.receipt, sprung);

        _sprung[c.id] = true;
        slashed = _slashVerifier(verifier, msg.sender);
        emit TrapSprung(hash, verifier, c.id, slashed);
    }

    /// @dev Who revealed these verdicts for the commit; reverts with TrapsNoSuchVerdicts for others.
    function _verifierOf(Commit calldata c, bytes calldata ranges, bytes calldata verdicts, bytes32 salt)
        internal
        view
        virtual
        returns (address);

    function _slashVerifier(address verifier, address rewarded) internal virtual returns (uint96);

    function _seed(uint64 commitId) internal view virtual returns (bytes32);

    function _domain() internal view virtual returns (bytes32);

    /// @dev Number of the drawn point among the commit's verdicts, once the receipt is shown to cover it.
    function _placeOf(Commit calldata c, bytes calldata ranges, Sprung calldata sprung) private view returns (uint256) {
        bytes32 seed = _seed(c.id);
        Range memory range = rangeAt(ranges, sprung.rangeIndex);
        bytes32 channel = range.channelKeyOf(c.node);
        uint256 point = AuditPoints.pointAt(seed, channel, sprung.k, c.step);
        bytes32 digest = _checkReceipt(c, sprung);
        bool drawn = range.before <= point && point < range.upto;
        require(drawn && _covers(sprung.leaf.receipt, channel, point), TrapsWrongReceipt(digest));
        return AuditPoints.countBefore(seed, c, ranges, sprung.rangeIndex)
            + AuditPoints.countIn(seed, channel, range.before, point, c.step);
    }

    function _covers(JobReceipt calldata receipt, bytes32 channel, uint256 point) private pure returns (bool) {
        return channelKey(receipt.payer, receipt.signer, receipt.node, receipt.lane) == channel
            && receipt.cumFrom <= point && point < receipt.cumTo;
    }

    function _checkReceipt(Commit calldata c, Sprung calldata sprung) private view returns (bytes32 digest) {
        digest = sprung.leaf.receipt.digestIn(_domain());
        bytes32 node = Merkle.leaf(bytes.concat(digest, sprung.leaf.signature));
        uint32 count = sprung.count;
        bool under = Merkle.verify(c.receiptsRoot, node, sprung.leaf.index, count, count, sprung.leaf.proof);
        require(under && Signatures.recover(digest, sprung.leaf.signature) == c.node, TrapsWrongReceipt(digest));
    }

    /// @dev Nothing through which whoever asked could have dictated the output: no prefix, no long prompt, no bias.
    function _checkBare(JobReceipt calldata receipt, Sprung calldata sprung) private view {
        (bytes calldata params, uint256 offset) = (sprung.params, sprung.biasOffset);
        bool isFirst = receipt.outputFrom == 0 && receipt.prefixRoot == Merkle.seal(0, bytes32(0));
        bool isUnbiased = keccak256(params) == receipt.paramsHash && params.length >= NO_BIAS.length
            && offset <= params.length - NO_BIAS.length && bytes16(params[offset:]) == NO_BIAS;
        bool isBare = isFirst && receipt.promptTokens <= MOST_PROMPT_TOKENS && isUnbiased;
        require(isBare, TrapsDictated(receipt.digestIn(_domain())));
    }

    /// @dev 32 tokens of the output that follow from the secret alone.
    function _checkPlanted(JobReceipt calldata receipt, Sprung calldata sprung) private view {
        bytes calldata data = sprung.output.data;
        uint256 count = receipt.outputTo > receipt.outputFrom ? receipt.outputTo - receipt.outputFrom : 0;
        uint256 leaves = (count + Merkle.CHUNK - 1) / Merkle.CHUNK;
        bytes32 node = Merkle.leaf(data);
        bool planted = sprung.tokens >= LEAST_TOKENS && data.length == FULL_LEAF_SIZE
            && Merkle.verify(receipt.outputRoot, node, sprung.outputIndex, leaves, count, sprung.output.proof);
        for (uint256 i; planted && i < Merkle.CHUNK; ++i) {
            uint256 start = POSITION_SIZE + 4 * i;
            uint32 id = uint32(bytes4(data[start:start + 4]));
            planted = id == uint32(uint256(keccak256(abi.encode(sprung.secret, i)))) % sprung.tokens;
        }
        require(planted, TrapsNoTrap(receipt.digestIn(_domain())));
    }
}
