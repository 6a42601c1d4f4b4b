// SPDX-License-Identifier: Apache-2.0
pragma solidity >=0.8.34 <0.9.0;

/// @title Registry of nodes, models, profiles and calibrations
/// @notice Who owns which node, what it serves, and how densely its owner is audited. Entries are added, never changed,
/// so that a receipt means the same for ever.
interface IRegistry {
    /// @param newOwnerPeriod Seconds after its first node for which an owner counts as new.
    /// @param warningPeriod Seconds for which a warning lasts.
    /// @param calibrationDelay Seconds until an added calibration may be used, and until a declaration of siblings that
    /// was taken back ends; longer than a stake's thaw.
    /// @param newStepUnits Units in a step between audit points, of a new or warned owner.
    /// @param establishedStepUnits The same of an established owner.
    /// @param newSharePpm Audit share (1e-6 of what is collected) of a new or warned owner.
    /// @param establishedSharePpm The same of an established owner.
    struct Parameters {
        uint40 newOwnerPeriod;
        uint40 warningPeriod;
        uint40 calibrationDelay;
        uint96 newStepUnits;
        uint96 establishedStepUnits;
        uint32 newSharePpm;
        uint32 establishedSharePpm;
    }

    event NodeRegistered(
        address indexed node, address indexed owner, bytes32 modelId, bytes32 profileId, string endpoint
    );
    event NodeUpdated(address indexed node, address indexed owner, bytes32 modelId, bytes32 profileId, string endpoint);
    event NodeRevoked(address indexed node, address indexed owner);
    event DelegateSet(address indexed owner, address indexed delegate, bool allowed);
    event SiblingDeclared(address indexed owner, address indexed sibling, bool declared);
    event ModelAdded(bytes32 indexed modelId, uint96 unit, string name, string uri);
    event ProfileAdded(bytes32 indexed profileId, string uri);
    event CalibrationAdded(
        bytes32 indexed calibrationHash,
        bytes32 indexed modelId,
        bytes32 nodeProfile,
        bytes32 verifierProfile,
        string uri,
        uint40 activeFrom
    );
    event Warned(address indexed owner, uint40 until);

    error RegistryNodeTaken(address node, address owner);
    error RegistryUnknownNode(address node);
    error RegistryNodeIsRevoked(address node);
    error RegistryNotNodeOwner(address node, address owner, address caller);
    error RegistryUnknownModel(bytes32 modelId);
    error RegistryUnknownProfile(bytes32 profileId);
    error RegistryEndpointTooLong(uint256 size, uint256 most);
    error RegistryModelKnown(bytes32 modelId);
    error RegistryProfileKnown(bytes32 profileId);
    error RegistryCalibrationKnown(bytes32 calibrationHash);
    error RegistryAuthExpired(uint256 time, uint40 deadline);
    error RegistryOwnerNotActive(address owner, uint96 bonded, uint96 minimum);
    error RegistryNotSlasher(address caller);
    error RegistryZeroUnit(bytes32 modelId);
    error RegistryZeroId();
    error RegistryShareTooLarge(uint32 ppm);
    error RegistryDelayTooShort(uint40 calibrationDelay, uint40 stakeThaw);

    /// @notice Registers the caller's node, whose key signed NodeAuth(owner, node, deadline). Needs an active stake.
    function registerNode(
        address node,
        bytes32 modelId,
        bytes32 profileId,
        string calldata endpoint,
        uint40 deadline,
        bytes32 r,
        bytes32 vs
    ) external;

    /// @notice Changes what a node of the caller serves and where, in at most 256 bytes. Its audit unit only ever falls by
    /// this.
    function updateNode(address node, string calldata endpoint, bytes32 modelId, bytes32 profileId) external;

    /// @notice Ends a node of the caller, for ever. What it earned can still be collected.
    function revokeNode(address node) external;

    /// @notice Lets `delegate` act for the caller wherever an owner may: collect, vote, answer. A node's key may be named,
    /// before or after it is registered, until it is revoked. Whoever steals it can then commit to a broken tree, which
    /// costs as much as a mismatch; of a key that only signs jobs, ADR 16 and R-51 say what it can cost.
    function setDelegate(address delegate, bool allowed) external;

    /// @notice Declares that `sibling` is run by the caller too, or takes that back. A declaration holds at once and counts
    /// once both have made it; taken back, it ends only after the delay of a calibration, so that nobody drops a sibling
    /// to sit in judgement of it.
    function declareSibling(address sibling, bool declared) external;

    /// @notice Adds a model. `unit` is about the usual fee of one of its jobs. Contract owner only.
    function addModel(bytes32 modelId, uint96 unit, string calldata name, string calldata uri) external;

    /// @notice Adds a profile: engine, dtype, kernels and sampler. Contract owner only.
    function addProfile(bytes32 profileId, string calldata uri) external;

    /// @notice Adds the evidence table of a pair of profiles. It judges only what is committed once the delay is over;
    /// before the first node is registered there is none. Contract owner only.
    function addCalibration(
        bytes32 calibrationHash,
        bytes32 modelId,
        bytes32 nodeProfile,
        bytes32 verifierProfile,
        string calldata uri
    ) external;

    /// @notice Puts an owner on warning: it is audited like a new one. Slashers only; of a removed one it changes nothing.
    function warn(address owner) external;

    /// @notice What this contract was made with; it never changes.
    function parameters() external view returns (Parameters memory);

    /// @notice Owner of a node, revoked or not; zero if it was never registered.
    function nodeOwner(address node) external view returns (address);

    /// @notice Owner of a node, and whether its key is revoked.
    function keyOf(address node) external view returns (address owner, bool isRevoked);

    /// @notice A node as it was registered and updated last; `revokedAt` is zero while it lives.
    function node(address node_)
        external
        view
        returns (
            address owner,
            bytes32 modelId,
            bytes32 profileId,
            uint40 registeredAt,
            uint40 revokedAt,
            string memory endpoint
        );

    /// @notice Whether a live node of `owner` declares this pair: what a draw asks of each juror, at a bounded cost.
    function serves(address node, address owner, bytes32 modelId, bytes32 profileId) external view returns (bool);

    /// @notice Whether a node of the owner has ever declared this pair: what it once served, it may be judged for.
    function hasServed(address owner, bytes32 modelId, bytes32 profileId) external view returns (bool);

    /// @notice Whether `who` is the owner or named by it. A node is not by itself, and no more once it is revoked.
    function isDelegate(address owner, address who) external view returns (bool);

    /// @notice Whether both have declared each other, and neither declaration has ended. One alone could exclude strangers
    /// from juries. Siblings are one party: none sits on a jury or is drawn to audit where another is the party. It is not
    /// transitive.
    function areSiblings(address a, address b) external view returns (bool);

    /// @notice How densely the owner's next commits are audited.
    function auditLevel(address owner) external view returns (uint96 stepUnits, uint32 sharePpm);

    /// @notice What a commit of `node` needs, in one call; `owner` is zero for an unknown node.
    /// @return owner The node's owner.
    /// @return step Money between two audit points.
    /// @return sharePpm Audit share.
    /// @return allowed Whether `caller` may commit for the owner.
    function commitTerms(address node, address caller)
        external
        view
        returns (address owner, uint96 step, uint32 sharePpm, bool allowed);

    /// @notice Audit unit of a model; zero if it is unknown.
    function modelUnit(bytes32 modelId) external view returns (uint96);

    /// @notice Whether a profile was added.
    function isProfile(bytes32 profileId) external view returns (bool);

    /// @notice From when on a calibration may be used; zero if it is unknown.
    function calibrationFrom(bytes32 calibrationHash) external view returns (uint40);

    /// @notice Until when an owner is on warning.
    function warnedUntil(address owner) external view returns (uint40);
}
