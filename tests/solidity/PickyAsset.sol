// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

import {ERC20} from "@openzeppelin/contracts/token/ERC20/ERC20.sol";

/// @notice An asset that sends nothing to whom it refuses.
contract PickyAsset is ERC20 {
    mapping(address account => bool) public isRefused;

    error PickyAssetRefuses(address account);

    constructor() ERC20("picky", "PICK") {}

    function faucet(address to, uint256 amount) external {
        _mint(to, amount);
    }

    function refuse(address account, bool refused) external {
        isRefused[account] = refused;
    }

    function _update(address from, address to, uint256 amount) internal override {
        require(!isRefused[to], PickyAssetRefuses(to));
        super._update(from, to, amount);
    }
}
