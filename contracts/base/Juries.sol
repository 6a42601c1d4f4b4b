// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

import {ICourt} from "../interfaces/ICourt.sol";
import {IJurorPools} from "../interfaces/IJurorPools.sol";
import {IRandomness} from "../interfaces/IRandomness.sol";
import {IStaking} from "../interfaces/IStaking.sol";
import {SeedBlocks} from "../libraries/SeedBlocks.sol";
import {CourtState} from "./CourtState.sol";

/// @notice The rounds of a case: who is drawn, how they vote, what the votes come to, and what jurors pay.
abstract contract Juries is CourtState {
    /// @dev Inconclusive votes in a row, where the verdict was not, after which each one costs.
    uint256 private constant IDLE_VOTES = 3;
    /// @dev A vote against the verdict, and one idle vote too many, cost this part of a duty.
    uint96 private constant DUTY_PARTS = 4;

    IJurorPools internal immutable POOLS;
    IRandomness internal immutable RANDOMNESS;

    /// @inheritdoc ICourt
    mapping(address juror => uint256) public idleVotes;

    constructor(IRandomness randomness, IJurorPools pools) {
        RANDOMNESS = randomness;
        POOLS = pools;
    }

    /// @inheritdoc ICourt
    function commitVote(uint256 caseId, uint16 round, uint16 seat, bytes32 hash) external {
        Seat storage s = _seatOf(caseId, round, seat);
        (address juror, uint40 commitEnd) = (s.juror, s.commitEnd);
        bool allowed = juror != address(0) && (juror == msg.sender || REGISTRY.isDelegate(juror, msg.sender));
        require(allowed, CourtNotJuror(caseId, msg.sender));
        require(block.timestamp <= commitEnd, CourtCommitEnded(commitEnd, block.timestamp));
        bool fresh = s.verdict == 0 && s.hash == bytes32(0);
        require(fresh && hash != bytes32(0), CourtAlreadyCommitted(caseId, juror));

        s.hash = hash;

        emit VoteCommitted(caseId, round, juror, hash);
    }

    /// @inheritdoc ICourt
    function closeCommits(uint256 caseId) public {
        CaseState storage c = _checkStatus(caseId, Status.Voting);
        RoundState storage round = _rounds[caseId][c.round];
        require(block.timestamp <= round.commitEnd, CourtCommitsClosed(caseId, round.commitEnd));
        (uint256 committed,) = _countVotes(caseId, c.round);
        require(committed == round.size, CourtVotesPending(caseId, round.commitEnd));

        round.commitEnd = uint40(block.timestamp - 1);

        emit CommitsClosed(caseId, c.round);
    }

    /// @inheritdoc ICourt
    function revealVote(uint256 caseId, uint16 round, uint16 seat, uint8 verdict, int64 logE, bytes32 salt) external {
        Seat storage s = _seatOf(caseId, round, seat);
        (address juror, uint40 commitEnd) = (s.juror, s.commitEnd);
        uint40 revealEnd = commitEnd + REVEAL_SECONDS;
        // What the round says costs a slot more: it is asked only for a phase that began early.
        if (block.timestamp <= commitEnd) commitEnd = _rounds[caseId][round].commitEnd;
        bool open = block.timestamp > commitEnd && block.timestamp <= revealEnd;
        require(open, CourtNotRevealPhase(commitEnd, revealEnd, block.timestamp));
        require(verdict >= MATCH && verdict <= INCONCLUSIVE, CourtInvalidVerdict(verdict));
        require(s.verdict == 0, CourtAlreadyRevealed(caseId, juror));
        bytes32 shown = keccak256(abi.encode(caseId, round, juror, verdict, logE, salt));
        require(shown == s.hash, CourtRevealMismatch(s.hash, shown));

        s.verdict = verdict;
        s.hash = bytes32(0);

        emit VoteRevealed(caseId, round, juror, verdict, logE);
    }

    /// @inheritdoc ICourt
    function jurorsOf(uint256 caseId, uint16 round) public view returns (address[] memory jurors) {
        jurors = new address[](_rounds[caseId][round].size);
        for (uint256 i; i < jurors.length; ++i) {
            jurors[i] = _seatOf(caseId, round, i).juror;
        }
    }

    /// @inheritdoc ICourt
    function voteOf(uint256 caseId, uint16 round, uint16 seat) external view returns (Vote memory) {
        Seat storage s = _seatOf(caseId, round, seat);
        return Vote(s.hash, s.verdict);
    }

    /// @inheritdoc ICourt
    function roundOf(uint256 caseId, uint16 round) external view returns (Round memory) {
        CaseState storage c = _cases[caseId];
        RoundState storage r = _rounds[caseId][round];
        bool waits = c.status == Status.Drawing && c.round == round;
        (uint256 committed, uint256 revealed) = _countVotes(caseId, round);
        return Round({
            size: waits ? c.wanted : r.size,
            committed: uint16(committed),
            revealed: uint16(revealed),
            commitEnd: r.commitEnd,
            revealEnd: r.revealEnd,
            seedBlock: waits ? c.seedBlock : 0
        });
    }

    /// @dev The jury of the round that waits for it; empty when too few may sit. An enlarged jury may be smaller than
    /// wanted, but not as small as the one before it.
    function _drawJury(uint256 caseId, CaseState storage c) internal view returns (address[] memory jury) {
        uint256 source = SeedBlocks.current(RANDOMNESS, c.seedBlock);
        bytes32 blockHash = RANDOMNESS.blockHash(source);
        require(blockHash != bytes32(0), CourtSeedNotReady(source, RANDOMNESS.currentBlock()));

        bytes32 seed = keccak256(abi.encodePacked(blockHash, address(this), caseId, c.round, c.shownHash));
        uint256 age = JUROR_AGE_SECONDS;
        uint256 before = c.openedAt > age ? c.openedAt - age : 0;
        jury = POOLS.draw(c.pool, seed, c.wanted, before, _parties(caseId, c), _satBefore(caseId, c.round));
        uint256 least = c.wanted;
        if (c.round > 0) {
            uint256 last = _rounds[caseId][c.round - 1].size;
            if (c.wanted > last) least = last + 1;
        }
        if (jury.length < least) return new address[](0);
    }

    /// @dev Only what a juror can lose is kept from leaving, until the case ends.
    function _seat(uint256 caseId, uint16 number, address[] memory jury) internal {
        uint40 commitEnd = uint40(block.timestamp) + COMMIT_SECONDS;
        RoundState storage round = _rounds[caseId][number];
        round.size = uint16(jury.length);
        round.commitEnd = commitEnd;
        round.revealEnd = commitEnd + REVEAL_SECONDS;
        for (uint256 i; i < jury.length; ++i) {
            Seat storage s = _seatOf(caseId, number, i);
            s.juror = jury[i];
            s.commitEnd = commitEnd;
            _tell(STAKING.lockDuty, jury[i], DUTY);
        }
        emit JurorsDrawn(caseId, number, jury, commitEnd, commitEnd + REVEAL_SECONDS);
    }

    /// @dev Two thirds of the jurors seated, silent ones included, or inconclusive; `silent` where less than half of
    /// them revealed, `doubted` where half of them speak for the accused. Reverts while votes may still come.
    function _tally(uint256 caseId, uint16 number)
        internal
        view
        returns (uint8 verdict, bool silent, bool doubted)
    {
        RoundState storage round = _rounds[caseId][number];
        require(block.timestamp > round.commitEnd, CourtVotesPending(caseId, round.commitEnd));
        uint256[4] memory votes;
        uint256 size = round.size;
        for (uint256 i; i < size; ++i) {
            Seat storage s = _seatOf(caseId, number, i);
            uint8 vote = s.verdict;
            bool pending = vote == 0 && s.hash != bytes32(0) && block.timestamp <= round.revealEnd;
            require(!pending, CourtVotesPending(caseId, round.revealEnd));
            ++votes[vote];
        }
        // Counts of seats, far below any overflow.
        unchecked {
            silent = votes[0] * 2 > size;
            doubted = votes[MATCH] * 2 >= size;
            verdict = INCONCLUSIVE;
            if (votes[MISMATCH] * 3 >= size * 2) verdict = MISMATCH;
            else if (votes[MATCH] * 3 >= size * 2) verdict = MATCH;
        }
    }

    /// @dev Ends the duty of all jurors. Those that did not reveal, voted against the verdict or sit idle too often pay.
    /// Returns those whom fees and shares are due: who voted the verdict, all that revealed when it is inconclusive.
    function _dismiss(uint256 caseId, uint16 last, uint8 verdict) internal returns (address[] memory payees) {
        uint256 most;
        for (uint16 r; r <= last; ++r) {
            most += _rounds[caseId][r].size;
        }
        payees = new address[](most);
        uint256 count;
        for (uint16 r; r <= last; ++r) {
            uint256 size = _rounds[caseId][r].size;
            for (uint256 i; i < size; ++i) {
                Seat storage s = _seatOf(caseId, r, i);
                (address juror, uint8 vote) = (s.juror, s.verdict);
                _tell(STAKING.unlockDuty, juror, DUTY);
                uint96 penalty = _penaltyFor(juror, vote, verdict);
                if (penalty > 0) _penalise(caseId, juror, penalty);
                if (vote == verdict || (verdict == INCONCLUSIVE && vote != 0)) payees[count++] = juror;
            }
        }
        assembly ("memory-safe") {
            mstore(payees, count)
        }
    }

    /// @dev An inconclusive vote costs nothing, unless an operator casts no other where juries do decide.
    function _penaltyFor(address juror, uint8 vote, uint8 verdict) private returns (uint96) {
        if (vote == 0) return DUTY;
        if (verdict == INCONCLUSIVE) return 0;
        uint256 idle = idleVotes[juror];
        if (vote == INCONCLUSIVE) {
            idleVotes[juror] = idle + 1;
            return idle + 1 >= IDLE_VOTES ? DUTY / DUTY_PARTS : 0;
        }
        if (idle > 0) idleVotes[juror] = 0;
        return vote == verdict ? 0 : DUTY / DUTY_PARTS;
    }

    function _penalise(uint256 caseId, address juror, uint96 amount) private {
        emit JurorPenalised(caseId, juror, amount);
        IStaking.Slash memory order;
        order.severity = amount;
        _take(juror, order);
    }

    function _countVotes(uint256 caseId, uint16 round) private view returns (uint256 committed, uint256 revealed) {
        uint256 size = _rounds[caseId][round].size;
        for (uint256 i; i < size; ++i) {
            Seat storage s = _seatOf(caseId, round, i);
            bool shown = s.verdict != 0;
            if (shown) ++revealed;
            if (shown || s.hash != bytes32(0)) ++committed;
        }
    }

    /// @dev Accused, challenger and appellants, or the owners whose nodes they are.
    function _parties(uint256 caseId, CaseState storage c) private view returns (address[] memory parties) {
        parties = new address[](2 + uint256(c.appeals));
        parties[0] = c.owner;
        parties[1] = _ownerOf(c.challenger);
        for (uint8 i = 1; i <= c.appeals; ++i) {
            parties[1 + i] = _ownerOf(_appeals[caseId][i].appellant);
        }
    }

    function _satBefore(uint256 caseId, uint16 round) private view returns (address[] memory sat) {
        uint256 count;
        for (uint16 r; r < round; ++r) {
            count += _rounds[caseId][r].size;
        }
        sat = new address[](count);
        for (uint16 r; r < round; ++r) {
            uint256 size = _rounds[caseId][r].size;
            for (uint256 i; i < size; ++i) {
                sat[--count] = _seatOf(caseId, r, i).juror;
            }
        }
    }
}
