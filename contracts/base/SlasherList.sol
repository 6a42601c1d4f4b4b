// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

import {Ownable} from "@openzeppelin/contracts/access/Ownable.sol";

import {StakingTable} from "./StakingTable.sol";
import {IStaking} from "../interfaces/IStaking.sol";

/// @notice Who may slash. Contracts are added late and never removed: nothing else here can be changed.
abstract contract SlasherList is StakingTable, Ownable {
    /// @inheritdoc IStaking
    mapping(address slasher => uint40) public slasherFrom;

    modifier onlySlasher() {
        require(isSlasher(msg.sender), StakingNotSlasher(msg.sender));
        _;
    }

    /// @dev The first slashers are part of the deployment: nobody has staked under other rules.
    constructor(address[] memory slashers) {
        for (uint256 i; i < slashers.length; ++i) {
            _addSlasher(slashers[i], uint40(block.timestamp));
        }
    }

    /// @inheritdoc IStaking
    function proposeSlasher(address slasher) external onlyOwner {
        _addSlasher(slasher, uint40(block.timestamp) + SLASHER_DELAY);
    }

    /// @inheritdoc IStaking
    function isSlasher(address slasher) public view returns (bool) {
        uint40 from = slasherFrom[slasher];
        return from != 0 && block.timestamp >= from;
    }

    function _addSlasher(address slasher, uint40 activeFrom) private {
        require(slasher != address(0), StakingZeroAddress());
        require(slasherFrom[slasher] == 0, StakingSlasherKnown(slasher));
        slasherFrom[slasher] = activeFrom;
        emit SlasherProposed(slasher, activeFrom);
    }
}
