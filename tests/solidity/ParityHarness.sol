// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

import {AuditPoints} from "../../contracts/libraries/AuditPoints.sol";
import {Billing} from "../../contracts/libraries/Billing.sol";
import {Merkle} from "../../contracts/libraries/Merkle.sol";
import {Signatures} from "../../contracts/libraries/Signatures.sol";
import {AnswerRequest} from "../../contracts/types/AnswerRequest.sol";
import {Assignment} from "../../contracts/types/Assignment.sol";
import {Chunk} from "../../contracts/types/Chunk.sol";
import {Commit} from "../../contracts/types/Commit.sol";
import {JobReceipt} from "../../contracts/types/JobReceipt.sol";
import {JobRequest} from "../../contracts/types/JobRequest.sol";
import {NodeAuth} from "../../contracts/types/NodeAuth.sol";
import {Offer} from "../../contracts/types/Offer.sol";
import {channelKey} from "../../contracts/types/Range.sol";
import {Reservation} from "../../contracts/types/Reservation.sol";
import {SignerAuth} from "../../contracts/types/SignerAuth.sol";
import {Verdict} from "../../contracts/types/Verdict.sol";
import {Voucher} from "../../contracts/types/Voucher.sol";

/// @notice Shows what the contracts' libraries compute, for comparison with the golden vectors.
contract ParityHarness {
    function hashAnswerRequest(AnswerRequest memory m) external pure returns (bytes32) {
        return m.hash();
    }

    function hashAssignment(Assignment memory m) external pure returns (bytes32) {
        return m.hash();
    }

    function hashChunk(Chunk memory m) external pure returns (bytes32) {
        return m.hash();
    }

    function hashCommit(Commit memory m) external pure returns (bytes32) {
        return m.hash();
    }

    function hashJobReceipt(JobReceipt memory m) external pure returns (bytes32) {
        return m.hash();
    }

    function hashJobRequest(JobRequest memory m) external pure returns (bytes32) {
        return m.hash();
    }

    function hashNodeAuth(NodeAuth memory m) external pure returns (bytes32) {
        return m.hash();
    }

    function hashOffer(Offer memory m) external pure returns (bytes32) {
        return m.hash();
    }

    function hashReservation(Reservation memory m) external pure returns (bytes32) {
        return m.hash();
    }

    function hashSignerAuth(SignerAuth memory m) external pure returns (bytes32) {
        return m.hash();
    }

    function hashVerdict(Verdict memory m) external pure returns (bytes32) {
        return m.hash();
    }

    function hashVoucher(Voucher memory m) external pure returns (bytes32) {
        return m.hash();
    }

    function digestOf(address escrow, bytes32 structHash) external view returns (bytes32) {
        return Signatures.digest(Signatures.domainSeparator(escrow), structHash);
    }

    function recover(bytes32 hash, bytes memory signature) external pure returns (address) {
        return Signatures.recover(hash, signature);
    }

    function rootOf(bytes32[] memory leaves) external pure returns (bytes32) {
        return Merkle.root(leaves, leaves.length);
    }

    function verify(bytes32 top, bytes32 leaf, uint256 index, uint256 width, uint256 total, bytes32[] memory proof)
        external
        pure
        returns (bool)
    {
        return Merkle.verify(top, leaf, index, width, total, proof);
    }

    function idsRoot(uint32[] memory ids) external pure returns (bytes32) {
        return Merkle.idsRoot(ids);
    }

    function outputRoot(uint32 first, uint32[] memory ids, uint16[] memory quantised) external pure returns (bytes32) {
        return Merkle.outputRoot(first, ids, quantised);
    }

    function feeOf(JobReceipt memory receipt, Offer memory offer) external pure returns (uint256) {
        return Billing.fee(receipt, offer);
    }

    function pointAt(bytes32 seed, bytes32 channel, uint256 k, uint96 step) external pure returns (uint256) {
        return AuditPoints.pointAt(seed, channel, k, step);
    }

    function countDrawn(bytes32 seed, Commit memory c, bytes calldata ranges) external pure returns (uint256) {
        return AuditPoints.count(seed, c, ranges);
    }

    function channelOf(address payer, address signer, address node, uint32 lane) external pure returns (bytes32) {
        return channelKey(payer, signer, node, lane);
    }
}
