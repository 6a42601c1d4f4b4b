// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

import {ERC20} from "@openzeppelin/contracts/token/ERC20/ERC20.sol";
import {ERC20Permit} from "@openzeppelin/contracts/token/ERC20/extensions/ERC20Permit.sol";

/// @notice The devnet's asset: like a dollar of six decimals, with a permit, and free for everybody.
contract DevAsset is ERC20, ERC20Permit {
    /// @notice Most that one call of `faucet` mints: one million.
    uint256 public constant FAUCET_LIMIT = 1_000_000e6;

    error DevAssetFaucetLimit(uint256 amount, uint256 limit);

    constructor() ERC20("retally devnet dollar", "rUSD") ERC20Permit("retally devnet dollar") {}

    /// @notice Mints `amount` to `to`.
    function faucet(address to, uint256 amount) external {
        require(amount <= FAUCET_LIMIT, DevAssetFaucetLimit(amount, FAUCET_LIMIT));
        _mint(to, amount);
    }

    /// @notice Six decimals, as the dollars that mainnet deployments use.
    function decimals() public pure override returns (uint8) {
        return 6;
    }
}
