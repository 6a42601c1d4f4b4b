// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

import {IEscrow} from "../interfaces/IEscrow.sol";
import {IFaults} from "../interfaces/IFaults.sol";
import {IRegistry} from "../interfaces/IRegistry.sol";
import {IStaking} from "../interfaces/IStaking.sol";
import {JobReceipt} from "../types/JobReceipt.sol";
import {Offence} from "../types/Offence.sol";
import {OPERATOR} from "../types/Role.sol";

/// @notice Claims by commit-reveal, and what follows when one is proven.
abstract contract Claims is IFaults {
    IEscrow internal immutable ESCROW;
    IStaking internal immutable STAKING;
    IRegistry internal immutable REGISTRY;

    FaultParameters private _faults;
    mapping(bytes32 claim => uint256 blockNumber) private _claims;
    /// @inheritdoc IFaults
    mapping(bytes32 subject => bool) public isPunished;
    /// @inheritdoc IFaults
    mapping(address key => uint96) public takenBySignatures;

    constructor(
        IEscrow escrow,
        IStaking staking,
        IRegistry registry,
        FaultParameters memory chosen
    ) {
        ESCROW = escrow;
        STAKING = staking;
        REGISTRY = registry;
        _faults = chosen;
    }

    /// @inheritdoc IFaults
    function commitClaim(bytes32 hash) external {
        require(_claims[hash] == 0, FaultsClaimExists(hash));
        _claims[hash] = block.number;
        emit ClaimCommitted(hash, msg.sender);
    }

    /// @inheritdoc IFaults
    function faultParameters() external view returns (FaultParameters memory) {
        return _faults;
    }

    /// @inheritdoc IFaults
    function claimHash(address claimant, bytes32 evidence, bytes32 salt) public pure returns (bytes32) {
        return keccak256(abi.encode(claimant, evidence, salt));
    }

    /// @dev Takes what an offence of a stake costs, without refunds.
    function _punish(Kind kind, bytes32 subject, address owner, uint8 role, Offence offence) internal {
        _markPunished(subject);
        IStaking.Slash memory order = _order(STAKING.severityOf(owner, role, offence));
        _slash(kind, subject, owner, role, order);
    }

    /// @dev Takes what an offence costs that only a hot key's signatures prove: within what the cap leaves, and the
    /// receipt's fee on top if that was collected and fits whole: a part of it would bar the payer from the rest.
    function _punishSigned(Kind kind, bytes32 subject, address owner, JobReceipt calldata receipt, bytes32 refunded)
        internal
    {
        _markPunished(subject);
        uint96 left = _faults.signedCap - takenBySignatures[receipt.node];
        Offence offence = kind == Kind.Conflict ? Offence.Conflict : Offence.Overbilling;
        uint96 severity = STAKING.severityOf(owner, OPERATOR, offence);
        if (severity > left) severity = left;
        left -= severity;
        IStaking.Slash memory order = _order(severity);
        uint96 fee = receipt.cumTo > receipt.cumFrom ? receipt.cumTo - receipt.cumFrom : 0;
        if (refunded != bytes32(0) && fee > 0 && fee <= left && _isCollected(receipt)) {
            left -= fee;
            order.receipts = new bytes32[](1);
            order.payers = new address[](1);
            order.refunds = new uint96[](1);
            order.receipts[0] = refunded;
            order.payers[0] = receipt.payer;
            order.refunds[0] = fee;
        }
        takenBySignatures[receipt.node] = _faults.signedCap - left;
        _slash(kind, subject, owner, OPERATOR, order);
    }

    /// @dev Uses up the caller's claim on this evidence.
    function _checkClaim(bytes32 evidence, bytes32 salt) internal view {
        bytes32 claim = claimHash(msg.sender, evidence, salt);
        uint256 claimBlock = _claims[claim];
        require(claimBlock != 0, FaultsClaimUnknown(claim));
        require(claimBlock < block.number, FaultsClaimTooFresh(claimBlock, block.number));
    }

    /// @dev The owner answerable for a receipt outside any commit, which is void when late or of a revoked key.
    function _ownerOfLive(JobReceipt calldata receipt) internal view returns (address owner) {
        uint40 revokedAt;
        (owner,,,, revokedAt,) = REGISTRY.node(receipt.node);
        require(owner != address(0), FaultsUnknownNode(receipt.node));
        bool late = block.timestamp > uint256(receipt.finishedAt) + _faults.receiptLifeSeconds;
        require(revokedAt == 0 && !late, FaultsReceiptVoid(receipt.node, revokedAt, receipt.finishedAt));
    }

    function _markPunished(bytes32 subject) private {
        require(!isPunished[subject], FaultsAlreadyPunished(subject));
        isPunished[subject] = true;
    }

    function _slash(Kind kind, bytes32 subject, address owner, uint8 role, IStaking.Slash memory order) private {
        if (role == OPERATOR) {
            uint256 needed = uint256(order.severity) + (order.refunds.length == 0 ? 0 : order.refunds[0]);
            uint96 stake = STAKING.slashable(owner, OPERATOR);
            uint96 held = ESCROW.heldOf(owner);
            if (needed > stake && held > 0) {
                uint256 short = needed - stake;
                ESCROW.slashHeld(owner, short < held ? uint96(short) : held);
            }
            REGISTRY.warn(owner);
        }
        (uint96 slashed, uint96 refunded,) = STAKING.slash(owner, role, order);
        emit FaultProven(kind, owner, subject, msg.sender, slashed, refunded);
    }

    function _order(uint96 severity) private view returns (IStaking.Slash memory order) {
        order.severity = severity;
        order.challenger = msg.sender;
        order.challengerShare = _faults.challengerCap;
    }

    function _isCollected(JobReceipt calldata receipt) private view returns (bool) {
        return ESCROW.channel(receipt.payer, receipt.signer, receipt.node, receipt.lane) >= receipt.cumTo;
    }
}
