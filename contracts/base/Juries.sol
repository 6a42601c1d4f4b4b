// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

import {ICourt} from "../interfaces/ICourt.sol";
import {IRandomness} from "../interfaces/IRandomness.sol";
import {IRegistry} from "../interfaces/IRegistry.sol";
import {IStaking} from "../interfaces/IStaking.sol";
import {SeedBlocks} from "../libraries/SeedBlocks.sol";
import {Sortition} from "../libraries/Sortition.sol";
import {Offence} from "../types/Offence.sol";
import {OPERATOR} from "../types/Role.sol";

/// @notice The rounds of a case: who is drawn, how they vote, what the votes come to.
abstract contract Juries is ICourt {
    uint8 internal constant MATCH = 1;
    uint8 internal constant MISMATCH = 2;
    uint8 internal constant INCONCLUSIVE = 3;

    IStaking internal immutable STAKING;
    IRegistry internal immutable REGISTRY;
    IRandomness internal immutable RANDOMNESS;

    Parameters internal _parameters;
    uint256 public caseCount;
    mapping(uint256 caseId => Case) internal _cases;
    mapping(uint256 caseId => mapping(uint16 round => Round)) internal _rounds;
    mapping(uint256 caseId => mapping(uint16 round => address[])) internal _jurors;
    mapping(uint256 caseId => mapping(uint16 round => mapping(address juror => Vote))) internal _votes;
    /// @dev What a juror's duty locks, so that it can be taken: the same amount is unlocked.
    mapping(uint256 caseId => mapping(uint16 round => mapping(address juror => uint96))) internal _dutyLocks;

    constructor(IStaking staking, IRegistry registry, IRandomness randomness, Parameters memory chosen) {
        require(chosen.jurySize > 0, CourtEmptyJury());
        STAKING = staking;
        REGISTRY = registry;
        RANDOMNESS = randomness;
        _parameters = chosen;
    }

    /// @inheritdoc ICourt
    function commitVote(uint256 caseId, bytes32 hash) external {
        Case storage c = _checkStatus(caseId, Status.Voting);
        Round storage round = _rounds[caseId][c.round];
        require(block.timestamp <= round.commitEnd, CourtCommitEnded(round.commitEnd, block.timestamp));
        address juror = _jurorFor(caseId, c.round, msg.sender);
        Vote storage vote = _votes[caseId][c.round][juror];
        require(vote.hash == bytes32(0) && hash != bytes32(0), CourtAlreadyCommitted(caseId, juror));

        vote.hash = hash;
        ++round.committed;

        emit VoteCommitted(caseId, c.round, juror, hash);
    }

    /// @inheritdoc ICourt
    function revealVote(uint256 caseId, uint8 verdict, int64 logE, bytes32 salt) external {
        Case storage c = _checkStatus(caseId, Status.Voting);
        Round storage round = _rounds[caseId][c.round];
        bool open = _commitsOver(round) && block.timestamp <= round.revealEnd;
        require(open, CourtNotRevealPhase(round.commitEnd, round.revealEnd, block.timestamp));
        require(verdict >= MATCH && verdict <= INCONCLUSIVE, CourtInvalidVerdict(verdict));
        address juror = _jurorFor(caseId, c.round, msg.sender);
        Vote storage vote = _votes[caseId][c.round][juror];
        require(vote.verdict == 0, CourtAlreadyRevealed(caseId, juror));
        bytes32 shown = keccak256(abi.encode(caseId, c.round, juror, verdict, logE, salt));
        require(shown == vote.hash, CourtRevealMismatch(vote.hash, shown));

        vote.verdict = verdict;
        vote.logE = logE;
        ++round.revealed;

        emit VoteRevealed(caseId, c.round, juror, verdict, logE);
    }

    /// @inheritdoc ICourt
    function caseOf(uint256 caseId) external view returns (Case memory) {
        return _cases[caseId];
    }

    /// @inheritdoc ICourt
    function roundOf(uint256 caseId, uint16 round) external view returns (Round memory) {
        return _rounds[caseId][round];
    }

    /// @inheritdoc ICourt
    function jurorsOf(uint256 caseId, uint16 round) external view returns (address[] memory) {
        return _jurors[caseId][round];
    }

    /// @inheritdoc ICourt
    function voteOf(uint256 caseId, uint16 round, address juror) external view returns (Vote memory) {
        return _votes[caseId][round][juror];
    }

    /// @inheritdoc ICourt
    function parameters() external view returns (Parameters memory) {
        return _parameters;
    }

    /// @dev Draws and seats the jury of a round that waits for it. Seats nobody and returns false when there are too
    /// few candidates: for a first jury fewer than wanted, for a later one no more than sat before.
    function _seat(uint256 caseId, Case storage c) internal returns (bool) {
        Round storage round = _rounds[caseId][c.round];
        uint256 source = SeedBlocks.current(RANDOMNESS, round.seedBlock);
        bytes32 blockHash = RANDOMNESS.blockHash(source);
        require(blockHash != bytes32(0), CourtSeedNotReady(source, RANDOMNESS.currentBlock()));

        bytes32 seed = keccak256(abi.encodePacked(blockHash, address(this), caseId, c.round));
        (address[] memory people, uint256[] memory weights) = _candidates(caseId, c);
        address[] memory jury = Sortition.draw(seed, people, weights, round.size);
        uint256 least = c.round == 0 ? round.size : uint256(_rounds[caseId][c.round - 1].size) + 1;
        if (jury.length < least) return false;

        round.size = uint16(jury.length);
        round.commitEnd = uint40(block.timestamp) + _parameters.commitSeconds;
        round.revealEnd = round.commitEnd + _parameters.revealSeconds;
        _jurors[caseId][c.round] = jury;
        for (uint256 i; i < jury.length; ++i) {
            uint96 duty = STAKING.severityOf(jury[i], OPERATOR, Offence.Duty);
            _dutyLocks[caseId][c.round][jury[i]] = duty;
            STAKING.lock(jury[i], OPERATOR, duty);
        }

        emit JurorsDrawn(caseId, c.round, jury, round.commitEnd, round.revealEnd);
        return true;
    }

    /// @dev Ends the duty of a round's jurors; those that did not reveal pay for it.
    function _release(uint256 caseId, uint16 round) internal {
        address[] memory jury = _jurors[caseId][round];
        for (uint256 i; i < jury.length; ++i) {
            uint96 duty = _dutyLocks[caseId][round][jury[i]];
            STAKING.unlock(jury[i], OPERATOR, duty);
            if (_votes[caseId][round][jury[i]].verdict != 0) continue;
            IStaking.Slash memory order;
            order.severity = duty;
            STAKING.slash(jury[i], OPERATOR, order);
        }
    }

    /// @dev Jurors that voted `verdict`, over all rounds; all that revealed when it is inconclusive.
    function _coherent(uint256 caseId, uint16 lastRound, uint8 verdict)
        internal
        view
        returns (address[] memory jurors)
    {
        uint256 most;
        for (uint16 r; r <= lastRound; ++r) {
            most += _jurors[caseId][r].length;
        }
        jurors = new address[](most);
        uint256 count;
        for (uint16 r; r <= lastRound; ++r) {
            address[] memory jury = _jurors[caseId][r];
            for (uint256 i; i < jury.length; ++i) {
                uint8 vote = _votes[caseId][r][jury[i]].verdict;
                if (vote == verdict || (verdict == INCONCLUSIVE && vote != 0)) jurors[count++] = jury[i];
            }
        }
        assembly ("memory-safe") {
            mstore(jurors, count)
        }
    }

    /// @dev Two thirds of the jurors seated, silent ones included, or inconclusive.
    function _tally(uint256 caseId, uint16 round) internal view returns (uint8) {
        address[] memory jury = _jurors[caseId][round];
        uint256[4] memory votes;
        for (uint256 i; i < jury.length; ++i) {
            ++votes[_votes[caseId][round][jury[i]].verdict];
        }
        if (votes[MISMATCH] * 3 >= jury.length * 2) return MISMATCH;
        if (votes[MATCH] * 3 >= jury.length * 2) return MATCH;
        return INCONCLUSIVE;
    }

    /// @dev Until when a round waits for votes; zero when it waits no longer.
    function _waitsUntil(Round storage round) internal view returns (uint40) {
        if (!_commitsOver(round)) return round.commitEnd;
        if (round.revealed < round.committed && block.timestamp <= round.revealEnd) return round.revealEnd;
        return 0;
    }

    function _checkStatus(uint256 caseId, Status expected) internal view returns (Case storage c) {
        c = _cases[caseId];
        require(c.status == expected, CourtWrongStatus(caseId, expected, c.status));
    }

    /// @dev The owner behind a party: the node's owner if it is a node's key.
    function _ownerOf(address party) internal view returns (address) {
        address owner = REGISTRY.nodeOwner(party);
        return owner == address(0) ? party : owner;
    }

    function _commitsOver(Round storage round) private view returns (bool) {
        return round.committed == round.size || block.timestamp > round.commitEnd;
    }

    function _candidates(uint256 caseId, Case storage c)
        private
        view
        returns (address[] memory people, uint256[] memory weights)
    {
        people = STAKING.owners(OPERATOR);
        weights = new uint256[](people.length);
        for (uint256 i; i < people.length; ++i) {
            (,,,, uint40 since) = STAKING.stakeOf(people[i], OPERATOR);
            bool old = since + _parameters.jurorAgeSeconds < c.openedAt;
            if (old && !_isParty(caseId, c, people[i])) weights[i] = STAKING.slashable(people[i], OPERATOR);
        }
    }

    /// @dev Accused, challenger and appellants, and whoever is their declared sibling.
    function _isParty(uint256 caseId, Case storage c, address who) private view returns (bool) {
        if (_isSame(who, c.owner) || _isSame(who, _ownerOf(c.challenger))) return true;
        for (uint16 r = 1; r <= c.round; ++r) {
            address appellant = _rounds[caseId][r].appellant;
            if (appellant != address(0) && _isSame(who, _ownerOf(appellant))) return true;
        }
        return false;
    }

    function _isSame(address who, address party) private view returns (bool) {
        return who == party || REGISTRY.areSiblings(who, party);
    }

    function _jurorFor(uint256 caseId, uint16 round, address caller) private view returns (address) {
        address[] memory jury = _jurors[caseId][round];
        for (uint256 i; i < jury.length; ++i) {
            if (REGISTRY.isDelegate(jury[i], caller)) return jury[i];
        }
        revert CourtNotJuror(caseId, caller);
    }
}
