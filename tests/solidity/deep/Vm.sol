// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

/// @notice The cheat codes of forge and halmos that these tests use.
interface Vm {
    function addr(uint256 key) external pure returns (address);
    function assume(bool condition) external pure;
    function computeCreateAddress(address deployer, uint256 nonce) external pure returns (address);
    function expectRevert() external;
    function expectRevert(bytes4 selector) external;
    function getNonce(address account) external view returns (uint64);
    function prank(address sender) external;
    function roll(uint256 number) external;
    function sign(uint256 key, bytes32 digest) external pure returns (uint8 v, bytes32 r, bytes32 s);
    function startPrank(address sender) external;
    function stopPrank() external;
    function warp(uint256 time) external;
}

Vm constant vm = Vm(address(uint160(uint256(keccak256("hevm cheat code")))));

/// @notice `x` brought into [low, high].
function bound(uint256 x, uint256 low, uint256 high) pure returns (uint256) {
    return low + x % (high - low + 1);
}

/// @notice An amount of at most `most`; often none, the least or all, where rules break first.
function amountUpTo(uint256 x, uint256 most) pure returns (uint256) {
    if (x % 8 == 0) return 0;
    if (x % 8 == 1) return most == 0 ? 0 : 1;
    if (x % 8 == 2) return most;
    return bound(x / 8, 0, most);
}
