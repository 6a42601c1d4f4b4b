// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

import {Traps} from "./base/Traps.sol";
import {IAudits} from "./interfaces/IAudits.sol";
import {IEscrow} from "./interfaces/IEscrow.sol";
import {IRandomness} from "./interfaces/IRandomness.sol";
import {IRegistry} from "./interfaces/IRegistry.sol";
import {IStaking} from "./interfaces/IStaking.sol";
import {AuditPoints} from "./libraries/AuditPoints.sol";
import {Rendezvous} from "./libraries/Rendezvous.sol";
import {SeedBlocks} from "./libraries/SeedBlocks.sol";
import {Signatures} from "./libraries/Signatures.sol";
import {Commit} from "./types/Commit.sol";
import {Offence} from "./types/Offence.sol";
import {VERIFIER} from "./types/Role.sol";

/// @notice See IAudits.
contract Audits is IAudits, Traps {
    /// @dev Bytes of one packed verdict: verdict 1, logE 8.
    uint256 private constant VERDICT_SIZE = 9;
    uint256 private constant PPM = 1e6;

    IEscrow private immutable ESCROW;
    IStaking private immutable STAKING;
    IRegistry private immutable REGISTRY;
    IRandomness private immutable RANDOMNESS;

    Parameters private _parameters;
    mapping(uint64 commitId => bytes32) private _seeds;
    mapping(uint64 commitId => Duty) private _duties;
    mapping(uint64 commitId => address) private _audited;
    mapping(address verifier => uint256) private _owed;

    constructor(
        IEscrow escrow,
        IStaking staking,
        IRegistry registry,
        IRandomness randomness,
        Parameters memory chosen
    ) {
        ESCROW = escrow;
        STAKING = staking;
        REGISTRY = registry;
        RANDOMNESS = randomness;
        _parameters = chosen;
    }

    /// @inheritdoc IAudits
    function fixSeed(Commit calldata c) external returns (bytes32 seed) {
        _checkCommit(c);
        require(_seeds[c.id] == bytes32(0), AuditsSeedAlreadyFixed(c.id));
        uint256 source = SeedBlocks.current(RANDOMNESS, c.seedBlock);
        bytes32 blockHash = RANDOMNESS.blockHash(source);
        require(blockHash != bytes32(0), AuditsSeedNotReady(source, RANDOMNESS.currentBlock()));

        seed = keccak256(abi.encodePacked(blockHash, address(ESCROW), c.id, c.receiptsRoot));
        _seeds[c.id] = seed;
        _audited[c.id] = c.owner;
        Duty storage duty = _duties[c.id];
        duty.drawn = _drawVerifier(seed, c);
        duty.dutyEnd = uint40(block.timestamp) + _parameters.dutySeconds;
        duty.commitTime = c.time;

        emit SeedFixed(c.id, seed, uint64(source));
        emit DutyDrawn(c.id, duty.drawn, duty.dutyEnd);

        // A tip that the pool cannot pay is not owed: the seed must be fixed even when the pool is empty.
        uint256 tip = _pointPrice(c) * _parameters.tipPpm / PPM;
        if (tip > 0) ESCROW.payFromAuditPool(msg.sender, uint96(tip));
    }

    /// @inheritdoc IAudits
    function commitVerdicts(uint64 commitId, bytes32 hash) external {
        require(_seeds[commitId] != bytes32(0), AuditsSeedNotFixed(commitId));
        Duty storage duty = _duties[commitId];
        require(!duty.paid, AuditsAlreadyPaid(commitId));
        _checkBonded(msg.sender, duty);
        address audited = _audited[commitId];
        require(!_isParty(msg.sender, audited), AuditsParty(msg.sender, audited));
        require(
            duty.drawn == address(0) || msg.sender == duty.drawn || block.timestamp > duty.dutyEnd,
            AuditsNotYourDuty(duty.drawn, duty.dutyEnd)
        );
        uint40 standsUntil = duty.committedAt + _parameters.revealSeconds;
        require(
            duty.committed == address(0) || block.timestamp > standsUntil,
            AuditsCommitmentStands(duty.committed, standsUntil)
        );

        address lapsed = duty.committed;
        if (lapsed != address(0) && lapsed == duty.drawn) duty.drawn = address(0);
        duty.committed = msg.sender;
        duty.committedAt = uint40(block.timestamp);
        duty.committedBlock = uint48(block.number);
        duty.hash = hash;

        emit VerdictsCommitted(commitId, msg.sender, hash);
        if (lapsed != address(0)) _punishMissedDuty(commitId, lapsed);
    }

    /// @inheritdoc IAudits
    function revealVerdicts(Commit calldata c, bytes calldata ranges, bytes calldata verdicts, bytes32 salt)
        external
        returns (uint256 pay)
    {
        _checkCommit(c);
        Duty storage duty = _duties[c.id];
        require(!duty.paid, AuditsAlreadyPaid(c.id));
        require(duty.committed == msg.sender, AuditsNothingCommitted(c.id, msg.sender));
        require(block.number > duty.committedBlock, AuditsRevealTooEarly(duty.committedBlock));
        bytes32 shown = keccak256(abi.encode(c.id, msg.sender, keccak256(verdicts), salt));
        require(shown == duty.hash, AuditsRevealMismatch(duty.hash, shown));
        uint256 points = countDrawn(c, ranges);
        _checkVerdicts(verdicts, points);

        duty.paid = true;
        pay = points * _pointPrice(c);
        _owed[msg.sender] += pay;

        emit VerdictsRevealed(c.id, msg.sender, verdicts);

        _payOwed(msg.sender);
        if (points > 0 && duty.drawn != address(0) && duty.drawn != msg.sender) {
            _punishMissedDuty(c.id, duty.drawn);
        }
    }

    /// @inheritdoc IAudits
    function collectOwed() external returns (uint256 amount) {
        amount = _payOwed(msg.sender);
        require(amount > 0, AuditsNothingOwed(_owed[msg.sender], ESCROW.auditPool()));
    }

    /// @inheritdoc IAudits
    function seedOf(uint64 commitId) external view returns (bytes32) {
        return _seeds[commitId];
    }

    /// @inheritdoc IAudits
    function dutyOf(uint64 commitId) external view returns (Duty memory) {
        return _duties[commitId];
    }

    /// @inheritdoc IAudits
    function owedTo(address verifier) external view returns (uint256) {
        return _owed[verifier];
    }

    /// @inheritdoc IAudits
    function currentSeedBlock(uint64 seedBlock) external view returns (uint256) {
        return SeedBlocks.current(RANDOMNESS, seedBlock);
    }

    /// @inheritdoc IAudits
    function parameters() external view returns (Parameters memory) {
        return _parameters;
    }

    /// @inheritdoc IAudits
    function countDrawn(Commit calldata c, bytes calldata ranges) public view returns (uint256) {
        bytes32 seed = _seeds[c.id];
        require(seed != bytes32(0), AuditsSeedNotFixed(c.id));
        require(keccak256(ranges) == c.rangesHash, AuditsWrongRanges(c.rangesHash, keccak256(ranges)));
        return AuditPoints.count(seed, c, ranges);
    }

    function _payOwed(address verifier) private returns (uint256 amount) {
        amount = _owed[verifier];
        uint256 pool = ESCROW.auditPool();
        if (amount > pool) {
            emit PayOwed(verifier, amount - pool);
            amount = pool;
        }
        _owed[verifier] -= amount;
        if (amount > 0) ESCROW.payFromAuditPool(verifier, uint96(amount));
    }

    function _punishMissedDuty(uint64 commitId, address verifier) private {
        emit DutyMissed(commitId, verifier, _slashVerifier(verifier, address(0)));
    }

    /// @inheritdoc Traps
    function _slashVerifier(address verifier, address rewarded) internal override returns (uint96 slashed) {
        IStaking.Slash memory order;
        order.severity = STAKING.severityOf(verifier, VERIFIER, Offence.Duty);
        order.challenger = rewarded;
        order.challengerShare = order.severity;
        (slashed,,) = STAKING.slash(verifier, VERIFIER, order);
    }

    /// @inheritdoc Traps
    function _verifierOf(Commit calldata c, bytes calldata ranges, bytes calldata verdicts, bytes32 salt)
        internal
        view
        override
        returns (address verifier)
    {
        _checkCommit(c);
        require(keccak256(ranges) == c.rangesHash, AuditsWrongRanges(c.rangesHash, keccak256(ranges)));
        Duty storage duty = _duties[c.id];
        verifier = duty.committed;
        bytes32 shown = keccak256(abi.encode(c.id, verifier, keccak256(verdicts), salt));
        require(duty.paid && shown == duty.hash, TrapsNoSuchVerdicts(c.id));
    }

    /// @inheritdoc Traps
    function _seed(uint64 commitId) internal view override returns (bytes32) {
        return _seeds[commitId];
    }

    /// @inheritdoc Traps
    function _domain() internal view override returns (bytes32) {
        return Signatures.domainSeparator(address(ESCROW));
    }

    /// @dev One verifier of those old enough at the commit, without the node's owner and its declared siblings, by stake
    /// and how long it had been bonded. That product never rises by what is bonded after the commit: a top-up lowers the
    /// stake's mean age by as much. Weighed by the stake alone, an old one could be raised once the seed is known.
    function _drawVerifier(bytes32 seed, Commit calldata c) private view returns (address best) {
        address[] memory people = STAKING.owners(VERIFIER);
        uint256 bestLot;
        uint256 bestWeight;
        for (uint256 i; i < people.length; ++i) {
            address who = people[i];
            (uint96 bonded,,,, uint40 since) = STAKING.stakeOf(who, VERIFIER);
            if (!_isOldEnough(since, c.time)) continue;
            uint256 weight = uint256(bonded) * (c.time - since);
            uint256 lot = Rendezvous.lot(seed, who);
            bool isFirst = best == address(0) || Rendezvous.isBefore(lot, weight, bestLot, bestWeight);
            if (isFirst && !_isParty(who, c.owner)) (best, bestLot, bestWeight) = (who, lot, weight);
        }
    }

    function _isOldEnough(uint40 since, uint40 commitTime) private view returns (bool) {
        return uint256(since) + _parameters.ageSeconds < commitTime;
    }

    /// @dev Nobody audits itself, nor a declared sibling.
    function _isParty(address verifier, address owner) private view returns (bool) {
        return verifier == owner || REGISTRY.areSiblings(verifier, owner);
    }

    /// @dev What the auditor of one drawn point earns: the audit share of one step of money.
    function _pointPrice(Commit calldata c) private pure returns (uint256) {
        return uint256(c.step) * c.sharePpm / PPM;
    }

    function _checkCommit(Commit calldata c) private view {
        require(ESCROW.commitWord(c.id) == c.hash(), AuditsUnknownCommit(c.id));
    }

    /// @dev Of who was drawn, no age is asked again: anybody could take it by topping the stake up.
    function _checkBonded(address verifier, Duty storage duty) private view {
        (,,,, uint40 since) = STAKING.stakeOf(verifier, VERIFIER);
        bool bonded = STAKING.isActive(verifier, VERIFIER)
            && (verifier == duty.drawn || _isOldEnough(since, duty.commitTime));
        require(bonded, AuditsNotBonded(verifier, since, duty.commitTime));
    }

    function _checkVerdicts(bytes calldata verdicts, uint256 points) private pure {
        require(
            verdicts.length == points * VERDICT_SIZE,
            AuditsWrongVerdictCount(points * VERDICT_SIZE, verdicts.length)
        );
        for (uint256 i; i < points; ++i) {
            uint8 verdict = uint8(verdicts[i * VERDICT_SIZE]);
            require(verdict >= 1 && verdict <= 3, AuditsInvalidVerdict(i, verdict));
        }
    }
}
