// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

import {Handler} from "./Handler.sol";

/// @notice The books hold after any sequence of moves, allowed or refused (tests/invariants/README.md).
contract MoneyTest {
    Handler private _handler;

    function setUp() public {
        _handler = new Handler();
    }

    function targetContracts() public view returns (address[] memory targets) {
        targets = new address[](1);
        targets[0] = address(_handler);
    }

    /// @dev One function: forge plays every sequence anew for each.
    function invariant_books() public view {
        _handler.checkEscrowOwesWhatItHas();
        _handler.checkStakingOwesWhatItHas();
        _handler.checkPayers();
        _handler.checkOwners();
    }
}
