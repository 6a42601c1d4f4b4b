// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

import {Ownable} from "@openzeppelin/contracts/access/Ownable.sol";
import {Math} from "@openzeppelin/contracts/utils/math/Math.sol";

import {IRegistry} from "./interfaces/IRegistry.sol";
import {IStaking} from "./interfaces/IStaking.sol";
import {Signatures} from "./libraries/Signatures.sol";
import {NodeAuth} from "./types/NodeAuth.sol";
import {OPERATOR} from "./types/Role.sol";

/// @notice See IRegistry.
contract Registry is IRegistry, Ownable {
    uint32 private constant PPM = 1_000_000;
    /// @dev Bytes of an endpoint: a name and a path, and little to load for whoever reads a node.
    uint256 private constant MAX_ENDPOINT = 256;

    /// @dev What a node's key may do: sign; collect, answer and vote for its owner as well; nothing more.
    enum Key { Serving, Delegate, Revoked }

    /// @dev What a commit or a fault needs is in the first slot.
    struct Node {
        address owner;
        uint88 unit;
        Key key;
        uint40 registeredAt;
        uint40 revokedAt;
        bytes32 modelId;
        bytes32 profileId;
        string endpoint;
    }

    struct Owner {
        uint40 since;
        uint40 warnedUntil;
    }

    IStaking private immutable STAKING;
    /// @dev Domain of the protocol's signatures; known before it is deployed.
    address private immutable ESCROW;
    uint40 private immutable NEW_OWNER_PERIOD;
    uint40 private immutable WARNING_PERIOD;
    uint40 private immutable CALIBRATION_DELAY;
    uint96 private immutable NEW_STEP_UNITS;
    uint96 private immutable ESTABLISHED_STEP_UNITS;
    uint32 private immutable NEW_SHARE_PPM;
    uint32 private immutable ESTABLISHED_SHARE_PPM;

    mapping(address node => Node) private _nodes;
    mapping(address owner => Owner) private _owners;
    mapping(address owner => mapping(address delegate => bool)) private _delegates;
    /// @dev By keccak(abi.encode(modelId, profileId)).
    mapping(address owner => mapping(bytes32 pairHash => bool)) private _served;
    /// @dev Until when a declaration holds.
    mapping(address owner => mapping(address sibling => uint40)) private _siblings;
    bool private _hasNodes;
    /// @inheritdoc IRegistry
    mapping(bytes32 modelId => uint96) public modelUnit;
    /// @inheritdoc IRegistry
    mapping(bytes32 profileId => bool) public isProfile;
    /// @inheritdoc IRegistry
    mapping(bytes32 calibrationHash => uint40) public calibrationFrom;

    constructor(IStaking staking, address escrow, address contractOwner, Parameters memory p) Ownable(contractOwner) {
        require(p.newSharePpm <= PPM, RegistryShareTooLarge(p.newSharePpm));
        require(p.establishedSharePpm <= PPM, RegistryShareTooLarge(p.establishedSharePpm));
        // Whoever disagrees with a new calibration must be able to leave before it judges.
        uint40 stakeThaw = staking.parameters().thawPeriod;
        require(p.calibrationDelay > stakeThaw, RegistryDelayTooShort(p.calibrationDelay, stakeThaw));
        STAKING = staking;
        ESCROW = escrow;
        NEW_OWNER_PERIOD = p.newOwnerPeriod;
        WARNING_PERIOD = p.warningPeriod;
        CALIBRATION_DELAY = p.calibrationDelay;
        NEW_STEP_UNITS = p.newStepUnits;
        ESTABLISHED_STEP_UNITS = p.establishedStepUnits;
        NEW_SHARE_PPM = p.newSharePpm;
        ESTABLISHED_SHARE_PPM = p.establishedSharePpm;
    }

    /// @inheritdoc IRegistry
    function registerNode(
        address node_,
        bytes32 modelId,
        bytes32 profileId,
        string calldata endpoint,
        uint40 deadline,
        bytes32 r,
        bytes32 vs
    ) external {
        require(_nodes[node_].owner == address(0), RegistryNodeTaken(node_, _nodes[node_].owner));
        require(block.timestamp <= deadline, RegistryAuthExpired(block.timestamp, deadline));
        _checkActive(msg.sender);
        bytes32 structHash = NodeAuth(msg.sender, node_, deadline).hash();
        Signatures.check(Signatures.digest(Signatures.domainSeparator(ESCROW), structHash), r, vs, node_);

        if (!_hasNodes) _hasNodes = true;
        if (_owners[msg.sender].since == 0) _owners[msg.sender].since = uint40(block.timestamp);
        Node storage n = _nodes[node_];
        n.owner = msg.sender;
        n.registeredAt = uint40(block.timestamp);
        n.unit = type(uint88).max;
        if (_delegates[msg.sender][node_]) n.key = Key.Delegate;
        _serve(n, modelId, profileId, endpoint);
        emit NodeRegistered(node_, msg.sender, modelId, profileId, endpoint);
    }

    /// @inheritdoc IRegistry
    function updateNode(address node_, string calldata endpoint, bytes32 modelId, bytes32 profileId) external {
        _serve(_ownNode(node_), modelId, profileId, endpoint);
        emit NodeUpdated(node_, msg.sender, modelId, profileId, endpoint);
    }

    /// @inheritdoc IRegistry
    function revokeNode(address node_) external {
        Node storage n = _ownNode(node_);
        n.key = Key.Revoked;
        n.revokedAt = uint40(block.timestamp);
        emit NodeRevoked(node_, msg.sender);
    }

    /// @inheritdoc IRegistry
    function setDelegate(address delegate, bool allowed) external {
        Node storage n = _nodes[delegate];
        if (n.owner == msg.sender) {
            require(n.key != Key.Revoked, RegistryNodeIsRevoked(delegate));
            n.key = allowed ? Key.Delegate : Key.Serving;
        }
        _delegates[msg.sender][delegate] = allowed;
        emit DelegateSet(msg.sender, delegate, allowed);
    }

    /// @inheritdoc IRegistry
    function declareSibling(address sibling, bool declared) external {
        uint40 until = _siblings[msg.sender][sibling];
        if (declared) _siblings[msg.sender][sibling] = type(uint40).max;
        else if (until == type(uint40).max) _siblings[msg.sender][sibling] = uint40(block.timestamp) + CALIBRATION_DELAY;
        emit SiblingDeclared(msg.sender, sibling, declared);
    }

    /// @inheritdoc IRegistry
    function addModel(bytes32 modelId, uint96 unit, string calldata name, string calldata uri) external onlyOwner {
        require(modelId != bytes32(0), RegistryZeroId());
        require(unit != 0, RegistryZeroUnit(modelId));
        require(modelUnit[modelId] == 0, RegistryModelKnown(modelId));
        modelUnit[modelId] = unit;
        emit ModelAdded(modelId, unit, name, uri);
    }

    /// @inheritdoc IRegistry
    function addProfile(bytes32 profileId, string calldata uri) external onlyOwner {
        require(profileId != bytes32(0), RegistryZeroId());
        require(!isProfile[profileId], RegistryProfileKnown(profileId));
        isProfile[profileId] = true;
        emit ProfileAdded(profileId, uri);
    }

    /// @inheritdoc IRegistry
    function addCalibration(
        bytes32 calibrationHash,
        bytes32 modelId,
        bytes32 nodeProfile,
        bytes32 verifierProfile,
        string calldata uri
    ) external onlyOwner {
        require(calibrationHash != bytes32(0), RegistryZeroId());
        require(calibrationFrom[calibrationHash] == 0, RegistryCalibrationKnown(calibrationHash));
        require(modelUnit[modelId] != 0, RegistryUnknownModel(modelId));
        require(isProfile[nodeProfile], RegistryUnknownProfile(nodeProfile));
        require(isProfile[verifierProfile], RegistryUnknownProfile(verifierProfile));
        // Before the first node nobody serves under other rules.
        uint40 activeFrom = uint40(block.timestamp) + (_hasNodes ? CALIBRATION_DELAY : 0);
        calibrationFrom[calibrationHash] = activeFrom;
        emit CalibrationAdded(calibrationHash, modelId, nodeProfile, verifierProfile, uri, activeFrom);
    }

    /// @inheritdoc IRegistry
    function warn(address owner) external {
        // What a removed slasher still finds changes nothing, and its open cases end all the same.
        if (STAKING.wasSlasher(msg.sender)) return;
        require(STAKING.isSlasher(msg.sender), RegistryNotSlasher(msg.sender));
        uint40 until = uint40(block.timestamp) + WARNING_PERIOD;
        _owners[owner].warnedUntil = until;
        emit Warned(owner, until);
    }

    /// @inheritdoc IRegistry
    function parameters() external view returns (Parameters memory) {
        return Parameters(
            NEW_OWNER_PERIOD, WARNING_PERIOD, CALIBRATION_DELAY,
            NEW_STEP_UNITS, ESTABLISHED_STEP_UNITS, NEW_SHARE_PPM, ESTABLISHED_SHARE_PPM
        );
    }

    /// @inheritdoc IRegistry
    function nodeOwner(address node_) external view returns (address) {
        return _nodes[node_].owner;
    }

    /// @inheritdoc IRegistry
    function keyOf(address node_) external view returns (address owner, bool isRevoked) {
        return (_nodes[node_].owner, _nodes[node_].key == Key.Revoked);
    }

    /// @inheritdoc IRegistry
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
        )
    {
        Node storage n = _nodes[node_];
        return (n.owner, n.modelId, n.profileId, n.registeredAt, n.revokedAt, n.endpoint);
    }

    /// @inheritdoc IRegistry
    function serves(address node_, address owner, bytes32 modelId, bytes32 profileId) external view returns (bool) {
        Node storage n = _nodes[node_];
        return n.owner == owner && n.key != Key.Revoked && n.modelId == modelId && n.profileId == profileId;
    }

    /// @inheritdoc IRegistry
    function hasServed(address owner, bytes32 modelId, bytes32 profileId) external view returns (bool) {
        return _served[owner][keccak256(abi.encode(modelId, profileId))];
    }

    /// @inheritdoc IRegistry
    function isDelegate(address owner, address who) public view returns (bool) {
        if (who == owner) return true;
        // A node's collect has read its slot anyway.
        Node storage n = _nodes[who];
        return n.owner == owner ? n.key == Key.Delegate : _delegates[owner][who];
    }

    /// @inheritdoc IRegistry
    function areSiblings(address a, address b) external view returns (bool) {
        return block.timestamp < _siblings[a][b] && block.timestamp < _siblings[b][a];
    }

    /// @inheritdoc IRegistry
    function auditLevel(address owner) public view returns (uint96 stepUnits, uint32 sharePpm) {
        Owner memory o = _owners[owner];
        bool established = o.since != 0 && block.timestamp > uint256(o.since) + NEW_OWNER_PERIOD;
        if (established && block.timestamp > o.warnedUntil) return (ESTABLISHED_STEP_UNITS, ESTABLISHED_SHARE_PPM);
        return (NEW_STEP_UNITS, NEW_SHARE_PPM);
    }

    /// @inheritdoc IRegistry
    function commitTerms(address node_, address caller)
        external
        view
        returns (address owner, uint96 step, uint32 sharePpm, bool allowed)
    {
        Node storage n = _nodes[node_];
        owner = n.owner;
        if (owner == address(0)) return (owner, 0, 0, false);
        (uint96 stepUnits, uint32 share) = auditLevel(owner);
        return (owner, uint96(n.unit) * stepUnits, share, isDelegate(owner, caller));
    }

    /// @inheritdoc IRegistry
    function warnedUntil(address owner) external view returns (uint40) {
        return _owners[owner].warnedUntil;
    }

    /// @dev A unit that rose with another model would thin the audits of money earned with the old one.
    function _serve(Node storage n, bytes32 modelId, bytes32 profileId, string calldata endpoint) private {
        uint96 unit = modelUnit[modelId];
        require(unit != 0, RegistryUnknownModel(modelId));
        require(isProfile[profileId], RegistryUnknownProfile(profileId));
        uint256 size = bytes(endpoint).length;
        require(size <= MAX_ENDPOINT, RegistryEndpointTooLong(size, MAX_ENDPOINT));
        n.unit = uint88(Math.min(n.unit, unit));
        _served[n.owner][keccak256(abi.encode(modelId, profileId))] = true;
        n.modelId = modelId;
        n.profileId = profileId;
        n.endpoint = endpoint;
    }

    function _ownNode(address node_) private view returns (Node storage n) {
        n = _nodes[node_];
        require(n.owner != address(0), RegistryUnknownNode(node_));
        require(n.owner == msg.sender, RegistryNotNodeOwner(node_, n.owner, msg.sender));
        require(n.key != Key.Revoked, RegistryNodeIsRevoked(node_));
    }

    function _checkActive(address owner) private view {
        (uint96 bonded,,,,) = STAKING.stakeOf(owner, OPERATOR);
        require(STAKING.isActive(owner, OPERATOR), RegistryOwnerNotActive(owner, bonded, STAKING.minimum(OPERATOR)));
    }
}
