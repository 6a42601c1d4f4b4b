// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

import {IPause} from "../../../contracts/interfaces/IPause.sol";
import {OPERATOR, VERIFIER} from "../../../contracts/types/Role.sol";
import {channelKey} from "../../../contracts/types/Range.sol";
import {AccountMoves} from "./AccountMoves.sol";
import {CollectMoves} from "./CollectMoves.sol";
import {StakeMoves} from "./StakeMoves.sol";
import {bound, vm} from "./Vm.sol";

/// @notice The one handler: every party's moves, allowed and forbidden, and the comparison of the books with the ghosts.
contract Handler is AccountMoves, CollectMoves, StakeMoves {
    constructor() {
        _deploy();
        _populate();
        for (uint256 i; i < 2; ++i) {
            _gAccount[_payer(i)].balance = 200 * DOLLAR;
            _gSession[_session(i)] = GhostSession(CAP, 0, block.timestamp + LIFE);
            _gStake[_owner(i)][OPERATOR].bonded = 2_000 * DOLLAR;
        }
        _supply = asset.totalSupply();
    }

    function letTimePass(uint256 seconds_) external {
        vm.warp(block.timestamp + bound(seconds_, 1 hours, 8 days));
        vm.roll(block.number + 1);
    }

    /// @notice The guardian stops inflows; everything else must go on as if it had not.
    function pause(uint256 length, uint256 by) external {
        uint40 until = uint40(block.timestamp + bound(length, 0, 15 days));
        address sender = by % 4 == 0 ? _payer(0) : GUARDIAN;
        bytes4 refusal = _pauseRefusal(sender, until);
        _move(sender, address(escrow), abi.encodeCall(IPause.pause, (until)), refusal);
        _move(sender, address(staking), abi.encodeCall(IPause.pause, (until)), refusal);
        if (refusal != bytes4(0)) return;
        if (_gPauseStart == 0 || block.timestamp >= _gPauseStart + 90 days) _gPauseStart = block.timestamp;
        _gPausedUntil = until;
    }

    function resume(uint256 by) external {
        address sender = by % 3 == 0 ? address(this) : by % 3 == 1 ? GUARDIAN : _owner(0);
        bytes4 refusal = sender == _owner(0) ? IPause.PauseNotGuardian.selector : bytes4(0);
        _move(sender, address(escrow), abi.encodeCall(IPause.resume, ()), refusal);
        _move(sender, address(staking), abi.encodeCall(IPause.resume, ()), refusal);
        if (refusal == bytes4(0)) _gPausedUntil = _min(_gPausedUntil, block.timestamp);
    }

    /// @notice I-1: the Escrow owes exactly what it has.
    function checkEscrowOwesWhatItHas() external view {
        uint256 owed = escrow.auditPool();
        for (uint256 i; i < 2; ++i) {
            (uint96 balance, uint96 thawing,, uint96 reserved) = escrow.account(_payer(i));
            require(thawing <= balance, "I-15: more thaws than is there");
            owed += uint256(balance) + reserved + escrow.credit(_payer(i));
            owed += escrow.credit(_owner(i)) + escrow.heldOf(_owner(i));
        }
        require(owed == asset.balanceOf(address(escrow)), "I-1: the Escrow does not owe what it has");
    }

    /// @notice I-2 and I-3: so does Staking, and nothing is made or lost but what slashes burn.
    function checkStakingOwesWhatItHas() external view {
        uint256 owed;
        uint256 outside;
        for (uint256 i; i < 2; ++i) {
            owed += staking.slashable(_owner(i), OPERATOR) + staking.slashable(_owner(i), VERIFIER);
            owed += staking.credit(_owner(i)) + staking.credit(_payer(i));
            outside += asset.balanceOf(_owner(i)) + asset.balanceOf(_payer(i));
        }
        require(owed == asset.balanceOf(address(staking)), "I-2: Staking does not owe what it has");
        require(asset.balanceOf(BURNED) == _gBurned, "I-3: something else than a slash burned");
        require(
            outside + owed + _gBurned + asset.balanceOf(address(escrow)) == _supply && asset.totalSupply() == _supply,
            "I-3: the asset is not conserved"
        );
    }

    /// @notice The payers' books are the ghosts'.
    function checkPayers() external view {
        for (uint256 i; i < 2; ++i) {
            GhostAccount storage a = _gAccount[_payer(i)];
            (uint96 balance, uint96 thawing, uint40 thawEnd, uint96 reserved) = escrow.account(_payer(i));
            require(balance == a.balance && thawing == a.thawing, "a balance differs from its ghost");
            require(thawing == 0 || thawEnd == a.thawEnd, "a thaw's end differs from its ghost");
            require(reserved == a.reserved, "what is reserved differs from its ghost");
            GhostSession storage s = _gSession[_session(i)];
            (uint96 cap, uint96 used, uint40 expiry) = escrow.signer(_payer(i), _session(i));
            require(cap == s.cap && used == s.used && expiry == s.expiry, "a signer differs from its ghost");
            _checkSets(i);
            _checkChannels(i);
        }
    }

    /// @notice The owners' books are the ghosts'.
    function checkOwners() external view {
        require(escrow.auditPool() == _gPool, "the audit pool differs from its ghost");
        require(escrow.commitCount() == _gCommits, "the count of commits differs from its ghost");
        for (uint256 i; i < 2; ++i) {
            address owner = _owner(i);
            require(escrow.credit(owner) == _gCredit[owner], "a credit differs from its ghost");
            require(escrow.credit(_payer(i)) == _gCredit[_payer(i)], "a payer's credit differs from its ghost");
            require(escrow.exposure(owner) == _exposure(owner), "an exposure differs from its ghost");
            uint256 held;
            for (uint256 k = _gHead[owner]; k < _gHeld[owner].length; ++k) {
                held += _gHeld[owner][k].amount;
            }
            require(escrow.heldOf(owner) == held, "a held credit differs from its ghost");
            uint256 free = _freeExposure(owner);
            // Held credit comes before new money.
            free = free > held ? free - held : 0;
            require(escrow.freeExposure(owner) == free, "a free exposure differs from its ghost");
            require(staking.credit(owner) == _gStakingCredit[owner], "a staking credit differs from its ghost");
            require(staking.credit(_payer(i)) == _gStakingCredit[_payer(i)], "a refund differs from its ghost");
            _checkStake(owner, OPERATOR);
            _checkStake(owner, VERIFIER);
        }
    }

    /// @dev A pause ends, and all of a stretch end within 14 days of its start, one stretch in 90 days.
    function _pauseRefusal(address sender, uint256 until) private view returns (bytes4) {
        if (sender != GUARDIAN) return IPause.PauseNotGuardian.selector;
        if (until <= block.timestamp) return IPause.PauseEndsInPast.selector;
        bool fresh = _gPauseStart == 0 || block.timestamp >= _gPauseStart + 90 days;
        uint256 latest = (fresh ? block.timestamp : _gPauseStart) + 14 days;
        return until > latest ? IPause.PauseTooLong.selector : bytes4(0);
    }

    function _checkStake(address owner, uint8 role) private view {
        GhostStake storage s = _gStake[owner][role];
        (uint96 bonded, uint96 thawing, uint40 thawEnd, uint16 locks,) = staking.stakeOf(owner, role);
        require(bonded == s.bonded && thawing == s.thawing, "a stake differs from its ghost");
        require(thawing == 0 || thawEnd == s.thawEnd, "a stake's thaw differs from its ghost");
        require(locks == s.locks && staking.lockedOf(owner, role) == s.locked, "a lock differs from its ghost");
        require(staking.slashable(owner, role) == s.bonded + s.thawing, "thawing stake is not slashable");
        require(
            staking.isActive(owner, role) == (s.bonded >= staking.minimum(role)), "active without the stake, or not with it"
        );
    }

    function _checkSets(uint256 i) private view {
        uint256 sum;
        for (uint256 n; n < 2; ++n) {
            for (uint256 k; k < 2; ++k) {
                address session = k == 0 ? address(0) : _session(i);
                GhostSet storage set = _gSet[_payer(i)][_node(n)][session];
                (uint96 granted, uint96 remaining, uint32 epoch, uint40 end) =
                    escrow.reservation(_payer(i), session, _node(n));
                require(granted == set.granted && remaining == set.remaining, "a reservation differs from its ghost");
                require(epoch == set.epoch && end == set.releaseEnd, "a reservation's epoch differs from its ghost");
                sum += remaining;
            }
        }
        require(sum == _gAccount[_payer(i)].reserved, "I-16: reservations do not add up");
    }

    function _checkChannels(uint256 i) private view {
        for (uint256 bits; bits < 8; ++bits) {
            address signer = bits & 1 == 0 ? _payer(i) : _session(i);
            (address node, uint32 lane) = (_node(bits >> 1 & 1), uint32(bits >> 2));
            bytes32 key = channelKey(_payer(i), signer, node, lane);
            require(escrow.channel(_payer(i), signer, node, lane) == _gChannel[key], "a channel differs from its ghost");
        }
    }
}
