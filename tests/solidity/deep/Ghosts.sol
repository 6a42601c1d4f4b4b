// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

import {OPERATOR} from "../../../contracts/types/Role.sol";
import {MoneyWorld} from "./MoneyWorld.sol";
import {vm} from "./Vm.sol";

/// @notice What the contracts should hold, kept beside them by rules of its own, and the one way to try a move.
abstract contract Ghosts is MoneyWorld {
    struct GhostAccount {
        uint256 balance;
        uint256 thawing;
        uint256 thawEnd;
        uint256 reserved;
    }

    struct GhostSession {
        uint256 cap;
        uint256 used;
        uint256 expiry;
    }

    struct GhostSet {
        uint256 granted;
        uint256 remaining;
        uint256 epoch;
        uint256 releaseEnd;
    }

    struct GhostStake {
        uint256 bonded;
        uint256 thawing;
        uint256 thawEnd;
        uint256 locks;
        uint256 locked;
    }

    /// @dev A payment that counts as exposure, or one that is held: how much, and when.
    struct Payment {
        uint256 amount;
        uint256 time;
    }

    mapping(address => GhostAccount) internal _gAccount;
    mapping(address => GhostSession) internal _gSession;
    mapping(address payer => mapping(address node => mapping(address signer => GhostSet))) internal _gSet;
    mapping(bytes32 channel => uint256) internal _gChannel;
    mapping(address => uint256) internal _gCredit;
    mapping(address owner => Payment[]) internal _gPaid;
    mapping(address owner => Payment[]) internal _gHeld;
    mapping(address owner => uint256) internal _gHead;
    uint256 internal _gPool;
    uint256 internal _gCommits;

    mapping(address owner => mapping(uint8 role => GhostStake)) internal _gStake;
    mapping(address => uint256) internal _gStakingCredit;
    mapping(bytes32 receipt => bool) internal _gRefunded;
    uint256 internal _gBurned;
    uint256 internal _supply;
    uint256 internal _gPauseStart;
    uint256 internal _gPausedUntil;

    /// @dev Moves tried, and of these refused: a suite that only moves correctly proves little.
    uint256 public tried;
    uint256 public refused;

    /// @dev Makes a move; it must succeed if `refusal` is zero and else be refused by exactly that error.
    function _move(address from, address to, bytes memory data, bytes4 refusal) internal returns (bytes memory answer) {
        bool ok;
        ++tried;
        vm.prank(from);
        (ok, answer) = to.call(data);
        if (refusal == bytes4(0)) {
            if (!ok) _bubble(answer);
            return answer;
        }
        ++refused;
        require(!ok, "a forbidden move succeeded");
        require(bytes4(answer) == refusal, "refused by another error");
    }

    function _paused() internal view returns (bool) {
        return block.timestamp < _gPausedUntil;
    }

    function _bubble(bytes memory answer) private pure {
        assembly ("memory-safe") {
            revert(add(answer, 32), mload(answer))
        }
    }

    function _min(uint256 a, uint256 b) internal pure returns (uint256) {
        return a < b ? a : b;
    }

    function _slashable(address owner) internal view returns (uint256) {
        return _gStake[owner][OPERATOR].bonded + _gStake[owner][OPERATOR].thawing;
    }
}
