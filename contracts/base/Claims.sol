// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

import {IClaims, Leaf} from "../interfaces/IClaims.sol";
import {IEscrow} from "../interfaces/IEscrow.sol";
import {IRegistry} from "../interfaces/IRegistry.sol";
import {IStaking} from "../interfaces/IStaking.sol";
import {AtStake} from "../libraries/AtStake.sol";
import {Merkle} from "../libraries/Merkle.sol";
import {Signatures} from "../libraries/Signatures.sol";
import {Commit} from "../types/Commit.sol";
import {JobReceipt} from "../types/JobReceipt.sol";
import {JobRequest} from "../types/JobRequest.sol";
import {Offence} from "../types/Offence.sol";
import {OPERATOR, ROUTER, VERIFIER} from "../types/Role.sol";

/// @notice Claims by commit-reveal, and what follows when one is proven.
abstract contract Claims is IClaims {
    /// @dev What the record of a fault becomes once it is punished; no hash is this small.
    bytes32 private constant PUNISHED = bytes32(uint256(1));
    /// @dev A late leaf costs its fee, and this part of it on top, out of which the claimant is rewarded.
    uint96 private constant LATE_SURCHARGE_DIVISOR = 10;

    IEscrow internal immutable ESCROW;
    IStaking internal immutable STAKING;
    IRegistry internal immutable REGISTRY;

    bytes32 private immutable DOMAIN;
    uint256 private immutable CHAIN_ID;
    uint96 private immutable CHALLENGER_CAP;
    uint96 private immutable SIGNED_CAP;
    uint40 internal immutable RECEIPT_LIFE;
    uint40 internal immutable LATE_AFTER;

    mapping(bytes32 claim => uint256 blockNumber) private _claims;
    /// @dev Hash of the fault while it waits for its punishment.
    mapping(bytes32 subject => bytes32 record) private _records;
    /// @inheritdoc IClaims
    mapping(address key => uint96) public takenBySignatures;

    constructor(IEscrow escrow, IStaking staking, IRegistry registry, FaultParameters memory chosen) {
        ESCROW = escrow;
        STAKING = staking;
        REGISTRY = registry;
        DOMAIN = Signatures.domainSeparator(address(escrow));
        CHAIN_ID = block.chainid;
        CHALLENGER_CAP = chosen.challengerCap;
        SIGNED_CAP = chosen.signedCap;
        RECEIPT_LIFE = chosen.receiptLifeSeconds;
        LATE_AFTER = chosen.lateSeconds;
    }

    /// @inheritdoc IClaims
    function commitClaim(bytes32 hash) external {
        require(_claims[hash] == 0, FaultsClaimExists(hash));
        _claims[hash] = block.number;
        emit ClaimCommitted(hash, msg.sender);
    }

    /// @inheritdoc IClaims
    function punish(Fault calldata fault) external returns (uint96 slashed, uint96 refunded) {
        bytes32 subject = fault.subject;
        require(_records[subject] == _recordOf(fault), FaultsNotProven(subject));
        _records[subject] = PUNISHED;

        (uint8 role, uint96 severity, uint96 refund) = _cost(fault);
        if (role == OPERATOR) {
            AtStake.reachHeld(STAKING, ESCROW, fault.owner, uint256(severity) + refund);
            if (fault.kind != Kind.LateLeaf) REGISTRY.warn(fault.owner);
        }
        (slashed, refunded,) = STAKING.slash(fault.owner, role, _order(fault, severity, refund));
        emit FaultPunished(subject, fault.owner, slashed, refunded);
    }

    /// @inheritdoc IClaims
    function isProven(bytes32 subject) external view returns (bool) {
        return _records[subject] != bytes32(0);
    }

    /// @inheritdoc IClaims
    function isPunished(bytes32 subject) external view returns (bool) {
        return _records[subject] == PUNISHED;
    }

    /// @inheritdoc IClaims
    function faultParameters() external view returns (FaultParameters memory) {
        return FaultParameters(CHALLENGER_CAP, SIGNED_CAP, RECEIPT_LIFE, LATE_AFTER);
    }

    /// @inheritdoc IClaims
    function claimHash(address claimant, bytes32 evidence, bytes32 salt) public pure returns (bytes32) {
        return keccak256(abi.encode(claimant, evidence, salt));
    }

    /// @dev Records a fault for the caller.
    function _prove(Fault memory fault, bytes32 subject) internal {
        require(_records[subject] == bytes32(0), FaultsAlreadyProven(subject));
        fault.subject = subject;
        fault.claimant = msg.sender;
        _records[subject] = _recordOf(fault);
        emit FaultProven(subject, fault);
    }

    /// @dev Uses up the caller's claim on this evidence.
    function _useClaim(bytes32 evidence, bytes32 salt) internal {
        bytes32 claim = claimHash(msg.sender, evidence, salt);
        uint256 claimBlock = _claims[claim];
        require(claimBlock != 0, FaultsClaimUnknown(claim));
        require(claimBlock < block.number, FaultsClaimTooFresh(claimBlock, block.number));
        delete _claims[claim];
    }

    function _checkCommit(Commit calldata c) internal view {
        require(ESCROW.isCommit(c), FaultsUnknownCommit(c.id));
    }

    /// @dev Digest of the receipt in a leaf that stands under the commit's root.
    function _checkLeaf(Commit calldata c, Leaf calldata leaf, uint32 count) internal view returns (bytes32 digest) {
        digest = leaf.receipt.digestIn(_domain());
        bytes32 node = Merkle.leaf(bytes.concat(digest, leaf.signature));
        bool under = Merkle.verify(c.receiptsRoot, node, leaf.index, count, count, leaf.proof);
        require(under, FaultsNotUnderRoot(c.receiptsRoot, leaf.index, count));
    }

    function _checkRequest(JobReceipt calldata receipt, JobRequest calldata request) internal view {
        bytes32 jobId = _digest(request.hash());
        require(jobId == receipt.jobId, FaultsNotReferenced(receipt.jobId, jobId));
    }

    function _digest(bytes32 structHash) internal view returns (bytes32) {
        return Signatures.digest(_domain(), structHash);
    }

    /// @dev Rebuilt on a fork, so that nothing signed on one chain is a fault on another.
    function _domain() internal view returns (bytes32) {
        return block.chainid == CHAIN_ID ? DOMAIN : Signatures.domainSeparator(address(ESCROW));
    }

    function _subject(Kind kind, bytes32 what) internal pure returns (bytes32) {
        return keccak256(abi.encode(kind, what));
    }

    /// @dev keccak of the fault's ABI encoding: a struct of static words lies in memory as it is encoded.
    function _recordOf(Fault memory fault) private pure returns (bytes32 record) {
        assembly ("memory-safe") {
            record := keccak256(fault, 0x100)
        }
    }

    /// @dev What a fault costs: within what the cap leaves where a hot key's signatures alone prove it. Its refund fits
    /// there whole or not at all: a part of it would bar the payer from the rest.
    function _cost(Fault calldata fault) private returns (uint8 role, uint96 severity, uint96 refund) {
        Offence offence;
        (role, offence) = _offenceOf(fault);
        refund = fault.refund;
        if (fault.kind == Kind.LateLeaf) return (role, refund / LATE_SURCHARGE_DIVISOR, refund);
        severity = role == OPERATOR
            ? AtStake.severityOf(STAKING, ESCROW, fault.owner, offence, 0)
            : STAKING.severityOf(fault.owner, role, offence);
        if (fault.key == address(0)) return (role, severity, refund);
        uint96 taken = takenBySignatures[fault.key];
        uint96 left = SIGNED_CAP - taken;
        if (severity > left) severity = left;
        if (refund > left - severity) refund = 0;
        takenBySignatures[fault.key] = taken + severity + refund;
    }

    function _offenceOf(Fault calldata fault) private pure returns (uint8 role, Offence offence) {
        Kind kind = fault.kind;
        if (kind == Kind.Assignments) return (ROUTER, Offence.Conflict);
        if (kind == Kind.Verdicts) return (VERIFIER, Offence.Duty);
        if (kind == Kind.Leaf || kind == Kind.Tiling) return (OPERATOR, Offence.Tiling);
        bool hot = fault.key != address(0);
        // Money billed twice is an overlap, whether one root shows it or two.
        if (kind == Kind.DoubleMoney) return (OPERATOR, hot ? Offence.Conflict : Offence.Tiling);
        hot = hot && (kind == Kind.Conflict || kind == Kind.BrokenChunk);
        return (OPERATOR, hot ? Offence.Conflict : Offence.Overbilling);
    }

    function _order(Fault calldata fault, uint96 severity, uint96 refund)
        private
        view
        returns (IStaking.Slash memory order)
    {
        order.severity = severity;
        order.challenger = fault.claimant;
        order.challengerShare = CHALLENGER_CAP;
        if (refund == 0) return order;
        order.receipts = new bytes32[](1);
        order.payers = new address[](1);
        order.refunds = new uint96[](1);
        order.receipts[0] = fault.receipt;
        order.payers[0] = fault.payer;
        order.refunds[0] = refund;
    }
}
