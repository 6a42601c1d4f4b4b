// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

import {IERC20} from "@openzeppelin/contracts/token/ERC20/IERC20.sol";

import {Escrow} from "../../../contracts/Escrow.sol";
import {Staking} from "../../../contracts/Staking.sol";
import {IRandomness} from "../../../contracts/interfaces/IRandomness.sol";
import {IRegistry} from "../../../contracts/interfaces/IRegistry.sol";
import {IStaking} from "../../../contracts/interfaces/IStaking.sol";

/// @notice Staking in which a proof may begin with any stake at all.
contract OpenStaking is Staking {
    constructor(IERC20 asset_, address escrow, Parameters memory p, address[] memory slashers)
        Staking(asset_, escrow, msg.sender, msg.sender, p, slashers)
    {}

    function put(address owner, uint8 role, Stake memory s, Locks memory l) external {
        _stakes[owner][role] = s;
        _locks[owner][role] = l;
    }
}

/// @notice An Escrow in which a proof may begin with any account, signer and reservation at all.
contract OpenEscrow is Escrow {
    constructor(IERC20 asset_, IStaking staking, IRegistry registry, IRandomness randomness, Parameters memory p)
        Escrow(asset_, msg.sender, msg.sender, staking, registry, randomness, p)
    {}

    function putAccount(address payer, Account memory a) external {
        _accounts[payer] = a;
    }

    function putSigner(address payer, address signer_, Signer memory s) external {
        _signers[payer][signer_] = s;
    }

    function putSet(address payer, address node, address signer_, Set memory s) external {
        _reservations[payer][node][signer_] = s;
    }
}
