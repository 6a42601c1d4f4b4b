// SPDX-License-Identifier: Apache-2.0
pragma solidity >=0.8.34 <0.9.0;

import {IFaults} from "../interfaces/IFaults.sol";
import {JobReceipt} from "../types/JobReceipt.sol";
import {JobRequest} from "../types/JobRequest.sol";
import {Offer} from "../types/Offer.sol";

/// @notice What a receipt may bill and must repeat, from its offer and its request (R-9, R-19, R-26).
library Billing {
    uint256 private constant PER_TOKENS = 1e6;
    /// @dev The finish reason `length` (R-10).
    uint8 internal constant LENGTH = 1;

    /// @notice Fee of a receipt at the prices of its offer, rounded down (R-19).
    function fee(JobReceipt memory receipt, Offer memory offer) internal pure returns (uint256) {
        if (receipt.outputTo <= receipt.outputFrom) return 0;
        uint256 input;
        uint256 cached;
        if (receipt.outputFrom > 0) {
            input = uint256(receipt.promptTokens) + receipt.outputFrom;
            cached = input;
        } else if (receipt.choice == 0) {
            input = receipt.promptTokens;
            cached = receipt.cachedTokens < input ? receipt.cachedTokens : input;
        }
        uint256 output = receipt.outputTo - receipt.outputFrom;
        return ((input - cached) * offer.priceIn + cached * offer.priceCached + output * offer.priceOut) / PER_TOKENS;
    }

    /// @notice What, if anything, is wrong with the money of a receipt.
    /// @return wrong The first breach found.
    /// @return billed What the receipt bills, or the price it was billed at.
    /// @return allowed What it could have been at most.
    function check(JobReceipt memory receipt, Offer memory offer, JobRequest memory request)
        internal
        pure
        returns (IFaults.Billing wrong, uint256 billed, uint256 allowed)
    {
        billed = receipt.cumTo > receipt.cumFrom ? receipt.cumTo - receipt.cumFrom : 0;
        allowed = fee(receipt, offer);
        if (billed > allowed) return (IFaults.Billing.FeeAboveOffer, billed, allowed);
        if (billed > request.maxFee) return (IFaults.Billing.FeeAboveMaximum, billed, request.maxFee);
        bool dear = offer.priceIn > request.maxPriceIn || offer.priceCached > request.maxPriceCached
            || offer.priceOut > request.maxPriceOut;
        if (dear && billed > 0) return (IFaults.Billing.PriceAboveMaximum, billed, 0);
    }

    /// @notice In what a receipt deviates from its request or offer.
    function deviation(JobReceipt memory receipt, Offer memory offer, JobRequest memory request)
        internal
        pure
        returns (IFaults.Deviation)
    {
        if (
            receipt.payer != request.payer || receipt.signer != request.signer || receipt.node != offer.node
        ) return IFaults.Deviation.Party;
        if (receipt.modelId != request.modelId || receipt.modelId != offer.modelId) return IFaults.Deviation.Model;
        if (
            receipt.profileId != offer.profileId
                || (request.profileId != bytes32(0) && receipt.profileId != request.profileId)
        ) return IFaults.Deviation.Profile;
        if (receipt.paramsHash != request.paramsHash) return IFaults.Deviation.Params;
        if (receipt.choice >= request.n) return IFaults.Deviation.Choice;
        bytes32 seed = keccak256(abi.encodePacked("retally/seed", request.clientSeed, receipt.choice));
        if (receipt.seed != seed) return IFaults.Deviation.Seed;
        if (receipt.outputTo > request.maxOutput || receipt.outputTo < receipt.outputFrom) return IFaults.Deviation.Output;
        return IFaults.Deviation.None;
    }

    /// @notice How many tokens an answer may have: asked for, and fitting the context.
    function answerLimit(JobReceipt memory receipt, Offer memory offer, JobRequest memory request, uint256 maxTokens)
        internal
        pure
        returns (uint256 limit)
    {
        limit = maxTokens < request.maxOutput ? maxTokens : request.maxOutput;
        uint256 room = offer.maxContext > receipt.promptTokens ? offer.maxContext - receipt.promptTokens : 0;
        if (room < limit) limit = room;
    }
}
