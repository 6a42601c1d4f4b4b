// SPDX-License-Identifier: Apache-2.0
pragma solidity >=0.8.34 <0.9.0;

/// @title A pause of inflows and new cases
/// @notice A guardian may keep new money and new cases out for a while. No way out ever asks whether a contract is
/// paused: thaws, withdrawals, collects, votes, verdicts and credits go on, and so does what has begun.
/// @dev All pauses of a contract lie within `MAX_PAUSE` of the first one's start, and the next such stretch starts no
/// sooner than `PAUSE_EVERY` after that: of any `PAUSE_EVERY`, a contract is paused for `MAX_PAUSE` at most.
interface IPause {
    event Paused(address indexed guardian, uint40 until);
    event Resumed(address indexed by);
    event GuardianSet(address indexed guardian);

    error PauseInForce(uint256 time, uint40 until);
    error PauseNotGuardian(address caller, address guardian);
    error PauseEndsInPast(uint256 time, uint40 until);
    error PauseTooLong(uint40 until, uint40 latest);

    /// @notice Pauses until a time; it ends then by itself. Called again it moves the end, within the same limit.
    /// Guardian only.
    function pause(uint40 until) external;

    /// @notice Ends a pause now. Guardian or contract owner.
    function resume() external;

    /// @notice Replaces the guardian; zero for none. It starts no new stretch of pauses. Contract owner only.
    function setGuardian(address guardian) external;

    /// @notice Who may pause; zero for nobody.
    function guardian() external view returns (address);

    /// @notice When the pause ends, or ended; zero if there never was one.
    function pausedUntil() external view returns (uint40);

    /// @notice The latest end that a pause called now could have.
    function latestPauseEnd() external view returns (uint40);

    /// @notice Whether inflows and new cases are kept out now.
    function isPaused() external view returns (bool);
}
