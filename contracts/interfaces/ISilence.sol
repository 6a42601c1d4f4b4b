// SPDX-License-Identifier: Apache-2.0
pragma solidity >=0.8.34 <0.9.0;

import {IFaults} from "./IFaults.sol";
import {Commit} from "../types/Commit.sol";
import {JobReceipt} from "../types/JobReceipt.sol";
import {JobRequest} from "../types/JobRequest.sol";
import {Offer} from "../types/Offer.sol";

/// @notice The head of an answer on chain.
/// @param receipt The receipt that covers the challenged point.
/// @param signature The node's signature of it, as in the leaf.
/// @param index Its leaf.
/// @param count The number of leaves of the commit's tree.
/// @param proof The leaf's siblings from the leaf up.
/// @param request The request that the receipt's jobId is the digest of.
/// @param requestSignature Its signer's signature.
/// @param prompt Preimage of the prompt hash: the canonical JSON.
/// @param params Preimage of the params hash: the canonical JSON.
/// @param offer The offer that the receipt's offerHash is the digest of.
struct AnswerHead {
    JobReceipt receipt;
    bytes signature;
    uint32 index;
    uint32 count;
    bytes32[] proof;
    JobRequest request;
    bytes requestSignature;
    bytes prompt;
    bytes params;
    Offer offer;
}

/// @title Silence
/// @notice Makes a node show on chain what it did not show over HTTPS, or lose stake.
/// @dev A challenge names a drawn point of a commit. The node's owner or delegate posts the answer as calldata: first
/// the head, then the token ids of prompt, prefix and output in this order, each checked against the receipt's roots.
/// A request that forbids audit is answered by its head alone. Whoever answers wholly is repaid from the bond.
/// What silence costs is counted of the stake and of held credit: all that is held of what the commit collected, and of
/// the rest the fraction of Staking's table. Held credit pays where the stake falls short. A challenger gets no more than
/// the stake's own fraction and a bond. The open challenges of one commit share one lock. Nothing here asks for a pause:
/// a challenge brings no inflow and is no case.
interface ISilence {
    /// @notice Where a challenge stands.
    enum ChallengeStatus {
        None,
        Open,
        Answered,
        Slashed
    }

    /// @notice What a deployment chooses once.
    /// @param bond Pulled from the challenger.
    /// @param answerFee What a whole answer costs the challenger.
    /// @param answerFeePerKilobyte What each begun kilobyte of it costs on top; never more than the bond in all.
    /// @param tip Paid from the bond to whoever calls the time-out.
    /// @param challengerCap The most a challenger gets of one slash.
    /// @param windowSeconds How long after the commit its points can be challenged.
    /// @param answerSeconds Time for the head of the answer.
    /// @param partSeconds Time for the next part, from each part.
    /// @param partTokens The fewest tokens of a part that is not the last of its tree; a multiple of 32.
    /// @param payerLimit The most open challenges of payers, not verifiers, against one owner.
    /// @param verifierLimit The most open challenges of one verifier against one owner.
    struct SilenceParameters {
        uint96 bond;
        uint96 answerFee;
        uint96 answerFeePerKilobyte;
        uint96 tip;
        uint96 challengerCap;
        uint40 windowSeconds;
        uint40 answerSeconds;
        uint40 partSeconds;
        uint32 partTokens;
        uint16 payerLimit;
        uint16 verifierLimit;
    }

    /// @notice A challenge.
    /// @param challenger Who put up the bond.
    /// @param deadline When silence becomes a fault.
    /// @param status Where it stands.
    /// @param byPayer Whether the payer, not a verifier, challenged.
    /// @param tree The token tree that the next part belongs to: 0 head, 1 prompt, 2 prefix, 3 output.
    /// @param done Tokens of that tree shown so far.
    /// @param node The node.
    /// @param point The challenged money point.
    /// @param owner The node's owner.
    /// @param bytesPosted Size of the answer so far.
    /// @param commitId The commit.
    /// @param channel The channel's key.
    /// @param receiptsRoot The commit's root.
    struct Challenge {
        address challenger;
        uint40 deadline;
        ChallengeStatus status;
        bool byPayer;
        uint8 tree;
        uint32 done;
        address node;
        uint96 point;
        address owner;
        uint32 bytesPosted;
        uint64 commitId;
        bytes32 channel;
        bytes32 receiptsRoot;
    }

    /// @notice What the parts of an answer must come to, from its head.
    struct Expected {
        uint32 promptTokens;
        uint32 prefixTokens;
        uint32 outputTokens;
        bytes32 promptRoot;
        bytes32 prefixRoot;
        bytes32 outputRoot;
    }

    /// @notice A drawn point was challenged.
    event Challenged(
        bytes32 indexed challengeId,
        address indexed node,
        address indexed challenger,
        uint64 commitId,
        bytes32 channel,
        uint96 point,
        uint40 deadline
    );
    /// @notice A part of an answer was accepted; the next is due by `deadline`.
    event AnswerPart(bytes32 indexed challengeId, uint8 tree, uint32 done, uint40 deadline);
    /// @notice The answer is whole; the answerer is repaid from the bond.
    event Answered(bytes32 indexed challengeId, address indexed answerer, uint96 compensation);
    /// @notice The node stayed silent.
    event SilenceSlashed(bytes32 indexed challengeId, address indexed owner, uint96 slashed);
    /// @notice Somebody can withdraw more.
    event Credited(address indexed account, uint256 amount);
    /// @notice A credit was withdrawn.
    event CreditWithdrawn(address indexed account, uint256 amount);

    /// @notice The given commit is not the one that Escrow stored under its id.
    error SilenceUnknownCommit(uint64 commitId);
    /// @notice The packed ranges do not hash to the commit's.
    error SilenceWrongRanges(bytes32 expected, bytes32 given);
    /// @notice The seed of the commit has not been fixed.
    error SilenceSeedNotFixed(uint64 commitId);
    /// @notice The point does not lie in the range.
    error SilencePointOutside(uint256 point, uint96 from, uint96 to);
    /// @notice The commit is too old to be challenged.
    error SilenceWindowClosed(uint256 windowEnd, uint256 time);
    /// @notice Only verifiers bonded before the commit and the channel's payer may challenge.
    error SilenceNotEntitled(address caller);
    /// @notice The payers' open challenges against this owner have reached their limit.
    error SilencePayerLimit(address owner, uint16 limit);
    /// @notice The verifier's open challenges against this owner have reached their limit.
    error SilenceVerifierLimit(address verifier, address owner, uint16 limit);
    /// @notice This point was challenged before.
    error SilenceAlreadyChallenged(bytes32 challengeId);
    /// @notice The challenge is not open.
    error SilenceNotOpen(bytes32 challengeId, ChallengeStatus status);
    /// @notice Only the node's owner or its delegate may answer.
    error SilenceNotDelegate(address owner, address caller);
    /// @notice The answer came too late.
    error SilenceTooLate(uint40 deadline, uint256 time);
    /// @notice The node still has time to answer.
    error SilenceStillTime(uint40 deadline, uint256 time);
    /// @notice The receipt is not under the commit's root or not the one that covers the point.
    error SilenceWrongReceipt(bytes32 receiptDigest);
    /// @notice The request, offer, prompt or params do not hash to what the receipt says.
    error SilenceWrongPreimage(bytes32 expected, bytes32 given);
    /// @notice The request or offer is not for this receipt: another payer, signer, model, profile, params, seed, choice
    /// or output.
    error SilenceForeignRequest(bytes32 jobId, IFaults.Deviation found);
    /// @notice A part must be whole chunks of at least `least` tokens, or end its tree.
    error SilencePartSize(uint256 givenBytes, uint32 tokensLeft, uint32 least);
    /// @notice The shown tokens are not those of the receipt.
    error SilenceWrongTokens(uint8 tree, bytes32 expected, bytes32 given);
    /// @notice The account has no credit.
    error SilenceNoCredit(address account);

    /// @notice Demands the answer of a drawn point, with a bond pulled from the caller.
    /// @param c The commit.
    /// @param ranges Its packed ranges.
    /// @param rangeIndex The range of the point.
    /// @param k The number of the point: it lies in step k of the channel's money line.
    /// @return challengeId keccak(abi.encode(commitId, channel, k)).
    function challenge(Commit calldata c, bytes calldata ranges, uint256 rangeIndex, uint256 k)
        external
        returns (bytes32 challengeId);

    /// @notice Answers a challenge, part by part; by the node's owner or delegate.
    /// @param challengeId The challenge.
    /// @param data First abi.encode(AnswerHead), then token ids: `u32(id)…` of prompt and prefix, and for the output
    /// `u32(id)… ‖ u16(q)…` in chunks of 32 tokens, each tree in parts of whole chunks, never two trees in one part.
    function answer(bytes32 challengeId, bytes calldata data) external;

    /// @notice Slashes a node that did not answer in time, for a tip.
    function timeout(bytes32 challengeId) external;

    /// @notice Sends the caller its credit.
    function withdrawCredit() external returns (uint256 amount);

    /// @notice What an account can withdraw.
    function credit(address account) external view returns (uint256);

    /// @notice A challenge.
    function challengeOf(bytes32 challengeId) external view returns (Challenge memory);

    /// @notice What the parts of the answer must come to; zero before its head.
    function expectedOf(bytes32 challengeId) external view returns (Expected memory);

    /// @notice The parameters of this deployment.
    function silenceParameters() external view returns (SilenceParameters memory);
}
