// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

import {IEscrow} from "../interfaces/IEscrow.sol";
import {IRegistry} from "../interfaces/IRegistry.sol";
import {ISilence} from "../interfaces/ISilence.sol";
import {IStaking} from "../interfaces/IStaking.sol";
import {AtStake} from "../libraries/AtStake.sol";
import {Commit} from "../types/Commit.sol";
import {Offence} from "../types/Offence.sol";
import {moneyIn} from "../types/Range.sol";
import {OPERATOR, VERIFIER} from "../types/Role.sol";

/// @notice Who may challenge, what open challenges keep of the owner's stake, and what silence costs.
abstract contract ChallengeLocks is ISilence {
    /// @dev What the open challenges of one commit keep together: silence costs once.
    /// @param severity What silence cost when the first of them was opened: never less at its end.
    /// @param locked What of it Staking keeps.
    /// @param open How many are open.
    /// @param isLocked Whether Staking keeps it now.
    /// @param isSilenced Whether the commit was silent already.
    /// @param money What the commit collected.
    struct Kept {
        uint96 severity;
        uint96 locked;
        uint32 open;
        bool isLocked;
        bool isSilenced;
        uint96 money;
    }

    IEscrow internal immutable ESCROW;
    IStaking internal immutable STAKING;
    IRegistry internal immutable REGISTRY;

    mapping(uint64 commitId => Kept) private _kept;
    /// @dev Open challenges against an owner by each verifier, and by all payers together as nobody's.
    mapping(address owner => mapping(address verifier => uint16)) private _openBy;

    constructor(IEscrow escrow, IStaking staking, IRegistry registry) {
        ESCROW = escrow;
        STAKING = staking;
        REGISTRY = registry;
    }

    /// @dev Verifiers bonded before the commit challenge any of its points, payers their own, each within a limit.
    function _enter(address payer, Commit calldata c, SilenceParameters storage chosen) internal returns (bool byPayer) {
        (,,,, uint40 since) = STAKING.stakeOf(msg.sender, VERIFIER);
        byPayer = since >= c.time || !STAKING.isActive(msg.sender, VERIFIER);
        require(!byPayer || msg.sender == payer, SilenceNotEntitled(msg.sender));
        address by = byPayer ? address(0) : msg.sender;
        uint16 open = ++_openBy[c.owner][by];
        if (byPayer) require(open <= chosen.payerLimit, SilencePayerLimit(c.owner, chosen.payerLimit));
        else require(open <= chosen.verifierLimit, SilenceVerifierLimit(by, c.owner, chosen.verifierLimit));
    }

    /// @dev Locks what silence would cost, as far as the stake goes. Even a lock of nothing keeps held credit in.
    function _lock(Commit calldata c, bytes calldata ranges) internal {
        Kept storage kept = _kept[c.id];
        if (kept.open++ > 0 || kept.isSilenced) return;
        kept.money = moneyIn(ranges);
        uint96 severity = AtStake.severityOf(STAKING, ESCROW, c.owner, Offence.Silence, kept.money);
        uint96 stake = STAKING.slashable(c.owner, OPERATOR);
        uint96 locked = severity < stake ? severity : stake;
        (kept.severity, kept.locked, kept.isLocked) = (severity, locked, true);
        STAKING.lock(c.owner, OPERATOR, locked);
    }

    /// @dev Ends one challenge's part in limit and lock: the last one frees what the first one locked.
    function _leave(Challenge storage open) internal {
        --_openBy[open.owner][open.byPayer ? address(0) : open.challenger];
        Kept storage kept = _kept[open.commitId];
        if (--kept.open == 0) _free(kept, open.owner);
    }

    /// @dev A commit is silent once: its other unanswered points cost nothing more, so nothing stays locked for them.
    function _punish(Challenge storage open, SilenceParameters storage chosen) internal returns (uint96 slashed) {
        Kept storage kept = _kept[open.commitId];
        if (kept.isSilenced) return 0;
        kept.isSilenced = true;
        address owner = open.owner;
        _free(kept, owner);

        IStaking.Slash memory order;
        order.severity = AtStake.severityOf(STAKING, ESCROW, owner, Offence.Silence, kept.money);
        // What left while the challenge was open has not made the silence cheaper.
        if (order.severity < kept.severity) order.severity = kept.severity;
        order.challenger = open.challenger;
        // Of held credit a challenger gets little: a friend's share would make silence a way to be paid it.
        uint96 share = STAKING.severityOf(owner, OPERATOR, Offence.Silence) + chosen.bond;
        order.challengerShare = share < chosen.challengerCap ? share : chosen.challengerCap;
        AtStake.reachHeld(STAKING, ESCROW, owner, order.severity);
        (slashed,,) = STAKING.slash(owner, OPERATOR, order);
        REGISTRY.warn(owner);
    }

    function _free(Kept storage kept, address owner) private {
        if (!kept.isLocked) return;
        kept.isLocked = false;
        STAKING.unlock(owner, OPERATOR, kept.locked);
    }
}
