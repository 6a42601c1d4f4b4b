// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

import {Delays} from "../../contracts/libraries/Delays.sol";

/// @notice The order of delays, for tests to call.
contract DelaysHarness {
    function check(Delays calldata d) external pure {
        Delays memory copy = d;
        copy.check();
    }
}
