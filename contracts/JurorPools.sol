// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

import {ICourt} from "./interfaces/ICourt.sol";
import {IJurorPools} from "./interfaces/IJurorPools.sol";
import {IRegistry} from "./interfaces/IRegistry.sol";
import {IStaking} from "./interfaces/IStaking.sol";
import {Lots} from "./libraries/Lots.sol";
import {SumTree} from "./libraries/SumTree.sol";
import {OPERATOR} from "./types/Role.sol";

/// @notice See IJurorPools.
contract JurorPools is IJurorPools {
    using SumTree for SumTree.Tree;
    using Lots for Lots.Line;

    /// @dev A draw casts at most three lots for two seats, and these: some hit who may not sit, and stake that has left.
    /// The largest jury, with every other lot lost in a deep tree, must be drawn in one transaction.
    uint256 private constant SPARE_LOTS = 32;

    struct Pool {
        bytes32 modelId;
        bytes32 profileId;
        SumTree.Tree tree;
        uint32 weighing;
        address[] members;
        mapping(address owner => Entry) entries;
    }

    /// @dev A draw under way: whom it takes, and who is put aside because it sat before.
    struct Seats {
        uint256 before;
        uint256 minimum;
        uint256 filled;
        uint256 spared;
        address[] jury;
        address[] spare;
    }

    IStaking private immutable STAKING;
    IRegistry private immutable REGISTRY;
    ICourt private immutable COURT;
    uint16 private immutable READY_OWNERS;
    uint96 private immutable READY_STAKE;

    uint24 private _count;
    /// @inheritdoc IJurorPools
    mapping(bytes32 modelId => mapping(bytes32 profileId => uint24)) public poolOf;
    mapping(uint24 pool => Pool) private _pools;

    constructor(IStaking staking, IRegistry registry, ICourt court, Parameters memory chosen) {
        STAKING = staking;
        REGISTRY = registry;
        COURT = court;
        READY_OWNERS = chosen.readyOwners;
        READY_STAKE = chosen.readyStake;
    }

    /// @inheritdoc IJurorPools
    function enlist(address node) external {
        _checkStill();
        (address owner, bytes32 modelId, bytes32 profileId,, uint40 revokedAt,) = REGISTRY.node(node);
        require(owner == msg.sender && revokedAt == 0, PoolsNotYourNode(node, msg.sender));
        require(STAKING.isActive(owner, OPERATOR), PoolsNotActive(owner));
        (uint96 weight,,,,) = STAKING.stakeOf(owner, OPERATOR);

        uint24 id = poolOf[modelId][profileId];
        if (id == 0) {
            id = ++_count;
            poolOf[modelId][profileId] = id;
            _pools[id].modelId = modelId;
            _pools[id].profileId = profileId;
        }
        Pool storage pool = _pools[id];
        Entry memory entry = pool.entries[owner];
        if (weight > entry.weight) entry.since = uint40(block.timestamp);
        if (entry.weight == 0) ++pool.weighing;
        if (entry.leaf == 0) {
            entry.leaf = pool.tree.push(weight);
            pool.members.push(owner);
        } else {
            pool.tree.update(entry.leaf, entry.weight, weight);
        }
        entry.weight = weight;
        entry.node = node;
        pool.entries[owner] = entry;

        emit Enlisted(id, owner, node, weight, modelId, profileId);
    }

    /// @inheritdoc IJurorPools
    function resign(bytes32 modelId, bytes32 profileId) external {
        _lower(poolOf[modelId][profileId], msg.sender, 0);
    }

    /// @inheritdoc IJurorPools
    function refresh(bytes32 modelId, bytes32 profileId, address owner) external {
        uint24 id = poolOf[modelId][profileId];
        Pool storage pool = _pools[id];
        Entry memory entry = pool.entries[owner];
        uint96 worth = uint96(_worth(pool, owner, entry, STAKING.minimum(OPERATOR), type(uint256).max));
        require(worth < entry.weight || entry.weight == 0, PoolsNothingStale(id, owner, worth));
        _lower(id, owner, worth);
    }

    /// @inheritdoc IJurorPools
    function draw(
        uint24 id,
        bytes32 seed,
        uint256 size,
        uint256 before,
        address[] memory parties,
        address[] memory seated
    ) external view returns (address[] memory jury) {
        Pool storage pool = _pools[id];
        Seats memory seats = Seats(before, STAKING.minimum(OPERATOR), 0, 0, new address[](size), new address[](seated.length));
        Lots.Line memory line = Lots.line(pool.tree.total, size * 3 / 2 + SPARE_LOTS);
        for (uint256 turn; turn < line.taken.length && line.left > 0 && seats.filled < size; ++turn) {
            (uint256 point, uint256 place) = line.draw(seed, turn);
            address owner = _castLot(pool, line, point, place, parties, seats);
            if (owner == address(0)) continue;
            if (_contains(seated, owner)) seats.spare[seats.spared++] = owner;
            else seats.jury[seats.filled++] = owner;
        }
        return _filled(seats);
    }

    /// @inheritdoc IJurorPools
    function readiness(bytes32 modelId, bytes32 profileId)
        external
        view
        returns (bool ready, uint256 owners, uint256 stake)
    {
        Pool storage pool = _pools[poolOf[modelId][profileId]];
        uint256 minimum = STAKING.minimum(OPERATOR);
        address[] memory unrelated = new address[](pool.members.length);
        for (uint256 i; i < pool.members.length; ++i) {
            address owner = pool.members[i];
            uint256 worth = _worth(pool, owner, pool.entries[owner], minimum, type(uint256).max);
            if (worth == 0 || _isRelated(owner, unrelated, owners)) continue;
            unrelated[owners++] = owner;
            stake += worth;
        }
        ready = owners >= READY_OWNERS && stake >= READY_STAKE;
    }

    /// @inheritdoc IJurorPools
    function mayJudge(uint24 id, address owner) external view returns (bool) {
        Pool storage pool = _pools[id];
        if (pool.weighing < READY_OWNERS || pool.tree.total < READY_STAKE) return false;
        return REGISTRY.hasServed(owner, pool.modelId, pool.profileId);
    }

    /// @inheritdoc IJurorPools
    function pairOf(uint24 pool) external view returns (bytes32 modelId, bytes32 profileId) {
        return (_pools[pool].modelId, _pools[pool].profileId);
    }

    /// @inheritdoc IJurorPools
    function membersOf(uint24 pool) external view returns (address[] memory) {
        return _pools[pool].members;
    }

    /// @inheritdoc IJurorPools
    function entryOf(uint24 pool, address owner) external view returns (Entry memory) {
        return _pools[pool].entries[owner];
    }

    /// @inheritdoc IJurorPools
    function weightOf(uint24 pool) external view returns (uint256) {
        return _pools[pool].tree.total;
    }

    /// @inheritdoc IJurorPools
    function parameters() external view returns (Parameters memory) {
        return Parameters({readyOwners: READY_OWNERS, readyStake: READY_STAKE});
    }

    function _lower(uint24 id, address owner, uint96 weight) private {
        _checkStill();
        Pool storage pool = _pools[id];
        Entry storage entry = pool.entries[owner];
        require(entry.weight != 0, PoolsNotEnlisted(id, owner));
        pool.tree.update(entry.leaf, entry.weight, weight);
        entry.weight = weight;
        if (weight == 0) --pool.weighing;
        emit WeightLowered(id, owner, weight);
    }

    /// @dev Who stands at a point of the line; nobody where the stake has left or may not sit. The entry is taken out
    /// whole, whatever it is worth: no stake that changes once the seed is known moves another lot.
    function _castLot(
        Pool storage pool,
        Lots.Line memory line,
        uint256 point,
        uint256 place,
        address[] memory parties,
        Seats memory seats
    ) private view returns (address owner) {
        (uint32 leaf, uint256 offset) = pool.tree.find(point);
        owner = pool.members[leaf - 1];
        Entry memory entry = pool.entries[owner];
        line.remove(place, point - offset, point - offset + entry.weight);
        uint256 worth = _worth(pool, owner, entry, seats.minimum, seats.before);
        if (offset >= worth || _isParty(owner, parties)) return address(0);
    }

    /// @dev What an entry counts for now: nothing unless entry and stake are older than `before`, the stake is active and
    /// the node still serves the pair. What thaws counts no more.
    function _worth(Pool storage pool, address owner, Entry memory entry, uint256 minimum, uint256 before)
        private
        view
        returns (uint256)
    {
        if (entry.since >= before) return 0;
        (uint96 bonded,,,, uint40 since) = STAKING.stakeOf(owner, OPERATOR);
        if (bonded < minimum || since >= before) return 0;
        if (!REGISTRY.serves(entry.node, owner, pool.modelId, pool.profileId)) return 0;
        return bonded < entry.weight ? bonded : entry.weight;
    }

    function _isParty(address who, address[] memory parties) private view returns (bool) {
        for (uint256 i; i < parties.length; ++i) {
            if (who == parties[i] || REGISTRY.areSiblings(who, parties[i])) return true;
        }
        return false;
    }

    function _isRelated(address who, address[] memory others, uint256 count) private view returns (bool) {
        for (uint256 i; i < count; ++i) {
            if (REGISTRY.areSiblings(who, others[i])) return true;
        }
        return false;
    }

    /// @dev Draws of a known seed would be chosen by changing the pool before them.
    function _checkStill() private view {
        uint256 juries = COURT.pendingDraws();
        require(juries == 0, PoolsDrawPending(juries));
    }

    function _contains(address[] memory people, address who) private pure returns (bool) {
        for (uint256 i; i < people.length; ++i) {
            if (people[i] == who) return true;
        }
        return false;
    }

    /// @dev Seats left empty go to those who sat before, in the order of their lots.
    function _filled(Seats memory seats) private pure returns (address[] memory jury) {
        jury = seats.jury;
        uint256 count = seats.filled;
        for (uint256 i; i < seats.spared && count < jury.length; ++i) {
            jury[count++] = seats.spare[i];
        }
        assembly ("memory-safe") {
            mstore(jury, count)
        }
    }
}
