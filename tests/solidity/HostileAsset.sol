// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

import {ERC20} from "@openzeppelin/contracts/token/ERC20/ERC20.sol";

/// @notice An asset that keeps a fee of one unit, or calls somebody while it transfers.
contract HostileAsset is ERC20 {
    bool public keepsFee;
    address public target;
    bytes public data;
    /// @notice What the call of the last transfer came to.
    bool public succeeded;
    bytes4 public refusal;

    constructor() ERC20("hostile", "HOST") {}

    function faucet(address to, uint256 amount) external {
        _mint(to, amount);
    }

    function setKeepsFee(bool keeps) external {
        keepsFee = keeps;
    }

    function setCall(address target_, bytes calldata data_) external {
        (target, data, succeeded, refusal) = (target_, data_, false, bytes4(0));
    }

    function _update(address from, address to, uint256 amount) internal override {
        bool transfers = from != address(0) && to != address(0);
        super._update(from, to, transfers && keepsFee ? amount - 1 : amount);
        if (!transfers || target == address(0)) return;
        bytes memory answer;
        (succeeded, answer) = target.call(data);
        if (!succeeded && answer.length >= 4) refusal = bytes4(answer);
    }
}
