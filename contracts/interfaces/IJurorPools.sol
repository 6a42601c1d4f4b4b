// SPDX-License-Identifier: Apache-2.0
pragma solidity >=0.8.34 <0.9.0;

/// @title Juror pools
/// @notice For each pair of model and profile the operators that may be drawn to judge a case of it, by their stake.
/// @dev A pool holds what was bonded when an operator enlisted. A draw weighs each entry it hits by what is bonded now, or
/// by the entry if that is less: stake that thaws or has left is never drawn, stake that came later is not old enough.
/// Pools stand still while a jury waits to be drawn, and an entry that is hit is taken out whole, whatever it is worth:
/// whoever knows the seed may lose or gain a seat of its own, and moves no other lot.
interface IJurorPools {
    /// @notice What a deployment chooses once.
    /// @param readyOwners Owners of whom no two are declared siblings that a court-ready pair has at least.
    /// @param readyStake Stake that they have at least, together.
    struct Parameters {
        uint16 readyOwners;
        uint96 readyStake;
    }

    /// @notice An operator in a pool.
    /// @param leaf Its place in the pool's tree, from 1; zero if it never enlisted.
    /// @param weight Its bonded stake as enlisted; zero when it left.
    /// @param since When it enlisted, or last raised its weight.
    /// @param node The node with which it declares the pair.
    struct Entry {
        uint32 leaf;
        uint96 weight;
        uint40 since;
        address node;
    }

    /// @notice An operator enlisted, or changed its entry.
    event Enlisted(
        uint24 indexed pool, address indexed owner, address node, uint96 weight, bytes32 modelId, bytes32 profileId
    );
    /// @notice An entry weighs less than it did; zero when it left.
    event WeightLowered(uint24 indexed pool, address indexed owner, uint96 weight);

    /// @notice The caller does not own this node, or it is revoked.
    error PoolsNotYourNode(address node, address caller);
    /// @notice The caller's stake is not active.
    error PoolsNotActive(address owner);
    /// @notice So many juries wait to be drawn: `draw` them first.
    error PoolsDrawPending(uint256 juries);
    /// @notice The owner is not in this pool.
    error PoolsNotEnlisted(uint24 pool, address owner);
    /// @notice The entry is worth what it weighs.
    error PoolsNothingStale(uint24 pool, address owner, uint96 weight);

    /// @notice Enlists the caller in the pool of the pair that its `node` declares, with what it has bonded. Called
    /// again it brings weight and node up to date; a weight that rises has to grow old again.
    function enlist(address node) external;

    /// @notice Takes the caller out of a pool.
    function resign(bytes32 modelId, bytes32 profileId) external;

    /// @notice Lowers an entry to what it is worth: what the owner has bonded, or nothing if it is not active or its node serves
    /// the pair no more. Anybody may.
    function refresh(bytes32 modelId, bytes32 profileId, address owner) external;

    /// @notice Draws a jury by stake, nobody twice.
    /// @param pool The pool.
    /// @param seed The seed.
    /// @param size Jurors wanted; fewer are returned when fewer may sit.
    /// @param before Only entries and stakes older than this time are drawn.
    /// @param parties Owners who, with their declared siblings, may not sit.
    /// @param seated Owners who sit only when there are not enough others.
    function draw(
        uint24 pool,
        bytes32 seed,
        uint256 size,
        uint256 before,
        address[] calldata parties,
        address[] calldata seated
    ) external view returns (address[] memory jury);

    /// @notice Whether a case of this pair can be judged: enough owners that are no declared siblings, with enough stake.
    function readiness(bytes32 modelId, bytes32 profileId)
        external
        view
        returns (bool ready, uint256 owners, uint256 stake);

    /// @notice Whether a pool may judge this owner: a node of it has once declared the pool's pair, and as many owners as
    /// a court-ready pair has are enlisted, with as much weight.
    /// @dev In constant gas: who of them is another's sibling, and whose stake has left, only `readiness` counts.
    function mayJudge(uint24 pool, address owner) external view returns (bool);

    /// @notice The pool of a pair, from 1; zero if nobody has ever enlisted.
    function poolOf(bytes32 modelId, bytes32 profileId) external view returns (uint24);

    /// @notice The pair that a pool judges.
    function pairOf(uint24 pool) external view returns (bytes32 modelId, bytes32 profileId);

    /// @notice Who has ever enlisted in a pool.
    function membersOf(uint24 pool) external view returns (address[] memory);

    /// @notice An operator's entry in a pool.
    function entryOf(uint24 pool, address owner) external view returns (Entry memory);

    /// @notice The sum of a pool's weights.
    function weightOf(uint24 pool) external view returns (uint256);

    /// @notice The parameters of this deployment.
    function parameters() external view returns (Parameters memory);
}
