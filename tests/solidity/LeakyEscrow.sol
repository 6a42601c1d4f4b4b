// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

import {IERC20} from "@openzeppelin/contracts/token/ERC20/IERC20.sol";

import {Escrow} from "../../contracts/Escrow.sol";
import {IRandomness} from "../../contracts/interfaces/IRandomness.sol";
import {IRegistry} from "../../contracts/interfaces/IRegistry.sol";
import {IStaking} from "../../contracts/interfaces/IStaking.sol";

/// @notice The Escrow with a hole: assets leave without any account being debited. Audits of the books must see it.
contract LeakyEscrow is Escrow {
    constructor(
        IERC20 asset_,
        address contractOwner,
        address guardian_,
        IStaking staking,
        IRegistry registry,
        IRandomness randomness,
        Parameters memory parameters_
    ) Escrow(asset_, contractOwner, guardian_, staking, registry, randomness, parameters_) {}

    function leak(address to, uint256 amount) external {
        _push(to, amount);
    }
}
