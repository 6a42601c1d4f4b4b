// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

import {Ownable} from "@openzeppelin/contracts/access/Ownable.sol";

import {IPause} from "../interfaces/IPause.sol";

/// @notice See IPause. Whoever inherits it puts `whenRunning` on inflows and new cases, and on nothing else.
/// @dev Not parameters: whoever brings money in knows the limits without reading a deployment.
abstract contract Pause is IPause, Ownable {
    /// @notice Most seconds from the start of a stretch of pauses to its end.
    uint40 public constant MAX_PAUSE = 14 days;
    /// @notice Least seconds from the start of one stretch to the start of the next.
    uint40 public constant PAUSE_EVERY = 90 days;

    /// @dev One slot: who lets money in reads no more than this.
    struct State {
        address guardian;
        uint40 startedAt;
        uint40 until;
    }

    State private _pause;

    /// @dev For inflows and new cases only: no way out may ask this.
    modifier whenRunning() {
        _checkRunning();
        _;
    }

    constructor(address guardian_) {
        _setGuardian(guardian_);
    }

    /// @inheritdoc IPause
    function pause(uint40 until) external {
        State memory state = _pause;
        require(msg.sender == state.guardian, PauseNotGuardian(msg.sender, state.guardian));
        require(until > block.timestamp, PauseEndsInPast(block.timestamp, until));
        state.startedAt = _stretchStart(state.startedAt);
        uint40 latest = state.startedAt + MAX_PAUSE;
        require(until <= latest, PauseTooLong(until, latest));
        state.until = until;
        _pause = state;
        emit Paused(msg.sender, until);
    }

    /// @inheritdoc IPause
    function resume() external {
        State storage state = _pause;
        require(msg.sender == state.guardian || msg.sender == owner(), PauseNotGuardian(msg.sender, state.guardian));
        if (state.until > block.timestamp) state.until = uint40(block.timestamp);
        emit Resumed(msg.sender);
    }

    /// @inheritdoc IPause
    function setGuardian(address guardian_) external onlyOwner {
        _setGuardian(guardian_);
    }

    /// @inheritdoc IPause
    function guardian() external view returns (address) {
        return _pause.guardian;
    }

    /// @inheritdoc IPause
    function pausedUntil() external view returns (uint40) {
        return _pause.until;
    }

    /// @inheritdoc IPause
    function latestPauseEnd() external view returns (uint40) {
        return _stretchStart(_pause.startedAt) + MAX_PAUSE;
    }

    /// @inheritdoc IPause
    function isPaused() public view returns (bool) {
        return block.timestamp < _pause.until;
    }

    function _checkRunning() internal view {
        uint40 until = _pause.until;
        require(block.timestamp >= until, PauseInForce(block.timestamp, until));
    }

    function _setGuardian(address guardian_) private {
        _pause.guardian = guardian_;
        emit GuardianSet(guardian_);
    }

    /// @dev When the stretch of pauses began to which a pause called now belongs.
    function _stretchStart(uint40 startedAt) private view returns (uint40) {
        bool fresh = startedAt == 0 || block.timestamp >= uint256(startedAt) + PAUSE_EVERY;
        return fresh ? uint40(block.timestamp) : startedAt;
    }
}
