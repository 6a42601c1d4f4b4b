// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

import {IRandomness} from "../../../contracts/interfaces/IRandomness.sol";
import {AuditPoints} from "../../../contracts/libraries/AuditPoints.sol";
import {SeedBlocks} from "../../../contracts/libraries/SeedBlocks.sol";
import {Signatures} from "../../../contracts/libraries/Signatures.sol";
import {Tiling} from "../../../contracts/libraries/Tiling.sol";
import {Commit} from "../../../contracts/types/Commit.sol";
import {JobReceipt} from "../../../contracts/types/JobReceipt.sol";
import {Range, rangeAt, rangeCount} from "../../../contracts/types/Range.sol";
import {bound, vm} from "./Vm.sol";

/// @notice A chain whose blocks a test chooses.
contract FixedBlocks is IRandomness {
    uint256 public currentBlock;
    uint256 public window;

    function set(uint256 number, uint256 window_) external {
        (currentBlock, window) = (number, window_);
    }

    function blockHash(uint256 number) external view returns (bytes32) {
        bool readable = number < currentBlock && currentBlock <= number + window;
        return readable ? keccak256(abi.encode(number)) : bytes32(0);
    }
}

/// @notice Audit points, seeds, signatures and ranges against the plainest way to say the same.
contract PointsTest {
    uint256 private constant ORDER = 0xfffffffffffffffffffffffffffffffebaaedce6af48a03bbfd25e8cd0364141;

    FixedBlocks private _blocks;

    function setUp() public {
        _blocks = new FixedBlocks();
    }

    /// @dev Counting by the edges is counting one by one, and splitting a range moves no point.
    function testFuzz_pointsAreCountedOnceWhateverTheSplit(bytes32 seed, bytes32 channel, uint96 from, uint16 length, uint16 cut, uint96 unit)
        public
        pure
    {
        uint96 step = uint96(bound(unit, 1, 500));
        uint256 before = bound(from, 0, 1e20);
        uint256 upto = before + bound(length, 0, 3_000);
        uint256 total = AuditPoints.countIn(seed, channel, before, upto, step);
        uint256 plain;
        for (uint256 k = before / step; k * step < upto; ++k) {
            uint256 point = AuditPoints.pointAt(seed, channel, k, step);
            assert(point >= k * step && point < (k + 1) * step);
            if (point >= before && point < upto) ++plain;
        }
        assert(total == plain);
        uint256 middle = bound(cut, before, upto);
        uint256 left = AuditPoints.countIn(seed, channel, before, middle, step);
        assert(left + AuditPoints.countIn(seed, channel, middle, upto, step) == total);
    }

    /// @dev Whoever waits chooses nothing: the block is appointed, rolls on by half windows, and can be read.
    function testFuzz_seedBlockIsReadableAndNobodysChoice(uint64 appointed, uint64 later, uint16 size) public {
        uint256 window = bound(size, 2, 8191);
        uint256 number = uint256(appointed) + later;
        _blocks.set(number, window);
        uint256 block_ = SeedBlocks.current(_blocks, appointed);
        assert(block_ >= appointed && (block_ - appointed) % (window / 2) == 0);
        assert(block_ <= number && number <= block_ + window);
        if (number <= uint256(appointed) + window) assert(block_ == appointed);
        // It rolls on no sooner than it must.
        if (block_ != appointed) assert(number > block_ - window / 2 + window);
    }

    /// @dev One spelling of a signature is one signature; the other spelling and any other word are none.
    function testFuzz_signatureHasOneSpelling(uint128 key, bytes32 hash, bytes32 noise) public pure {
        uint256 secret = uint256(key) + 1;
        (uint8 v, bytes32 r, bytes32 s) = vm.sign(secret, hash);
        bytes32 vs = bytes32(uint256(s) | (uint256(v - 27) << 255));
        address signer = vm.addr(secret);
        assert(Signatures.recover(hash, r, vs) == signer);
        bytes32 high = bytes32(ORDER - uint256(s));
        assert(Signatures.recover(hash, r, high) != signer);
        assert(Signatures.recover(hash, r, bytes32(uint256(high) | (uint256(28 - v) << 255))) != signer);
        if (noise != r) assert(Signatures.recover(hash, noise, vs) != signer);
        if (noise != hash) assert(Signatures.recover(noise, r, vs) != signer);
    }

    /// @dev What is packed is what is read, and its key is the channel's.
    function testFuzz_rangesReadAsPacked(Range memory a, Range memory b, address node) public view {
        bytes memory packed = abi.encodePacked(
            abi.encodePacked(a.payer, a.signer, a.lane, a.before, a.upto),
            abi.encodePacked(b.payer, b.signer, b.lane, b.before, b.upto)
        );
        assert(this.countOf(packed) == 2);
        assert(keccak256(abi.encode(this.readRange(packed, 0))) == keccak256(abi.encode(a)));
        assert(keccak256(abi.encode(this.readRange(packed, 1))) == keccak256(abi.encode(b)));
        assert(b.channelKeyOf(node) == keccak256(abi.encodePacked(b.payer, b.signer, node, b.lane)));
    }

    /// @dev Every field of a commit is in its word.
    function testFuzz_commitWordBindsEveryField(Commit memory c, uint8 field) public pure {
        bytes32 word = c.hash();
        field %= 9;
        if (field == 0) c.id ^= 1;
        if (field == 1) c.node = address(uint160(c.node) ^ 1);
        if (field == 2) c.owner = address(uint160(c.owner) ^ 1);
        if (field == 3) c.receiptsRoot ^= bytes32(uint256(1));
        if (field == 4) c.rangesHash ^= bytes32(uint256(1));
        if (field == 5) c.step ^= 1;
        if (field == 6) c.sharePpm ^= 1;
        if (field == 7) c.seedBlock ^= 1;
        if (field == 8) c.time ^= 1;
        assert(c.hash() != word);
    }

    /// @dev Neighbours are in order if they tile one channel, or lie in channels of ascending keys.
    function testFuzz_neighboursTile(uint96 from, uint96 to, uint96 next, uint32 lane, uint32 other) public pure {
        JobReceipt memory left;
        JobReceipt memory right;
        (left.cumFrom, left.cumTo, left.lane) = (from, to, lane);
        (right.cumFrom, right.cumTo, right.lane) = (next, to, lane);
        assert(Tiling.inOrder(left, right) == (to == next));
        right.cumFrom = to;
        assert(Tiling.inOrder(left, right));
        if (other == lane) return;
        right.lane = other;
        assert(Tiling.inOrder(left, right) == (Tiling.keyOf(left) < Tiling.keyOf(right)));
        assert(Tiling.inOrder(left, right) != Tiling.inOrder(right, left));
    }

    function countOf(bytes calldata packed) external pure returns (uint256) {
        return rangeCount(packed);
    }

    function readRange(bytes calldata packed, uint256 index) external pure returns (Range memory) {
        return rangeAt(packed, index);
    }
}
