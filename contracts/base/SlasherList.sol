// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

import {Ownable} from "@openzeppelin/contracts/access/Ownable.sol";

import {StakingTable} from "./StakingTable.sol";
import {IStaking} from "../interfaces/IStaking.sol";

/// @notice Who may slash. Contracts are added late and removed at once: nothing else here can be changed.
abstract contract SlasherList is StakingTable, Ownable {
    struct Term {
        uint40 from;
        uint40 until;
    }

    mapping(address slasher => Term) private _terms;
    bool internal _hasRemoved;

    modifier onlySlasher() {
        require(isSlasher(msg.sender) || wasSlasher(msg.sender), StakingNotSlasher(msg.sender));
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
    function removeSlasher(address slasher) external onlyOwner {
        Term storage term = _terms[slasher];
        require(term.from != 0 && term.until == 0, StakingSlasherUnknown(slasher));
        // One that never could slash leaves no trace: it may be proposed again, and waits again.
        if (block.timestamp < term.from) term.from = 0;
        else (term.until, _hasRemoved) = (uint40(block.timestamp), true);
        emit SlasherRemoved(slasher);
    }

    /// @inheritdoc IStaking
    function slasherFrom(address slasher) external view returns (uint40) {
        return _terms[slasher].from;
    }

    /// @inheritdoc IStaking
    function isSlasher(address slasher) public view returns (bool) {
        Term storage term = _terms[slasher];
        return term.from != 0 && block.timestamp >= term.from && term.until == 0;
    }

    /// @inheritdoc IStaking
    function wasSlasher(address slasher) public view returns (bool) {
        return _terms[slasher].until != 0;
    }

    function _addSlasher(address slasher, uint40 activeFrom) private {
        require(slasher != address(0), StakingZeroAddress());
        require(_terms[slasher].from == 0, StakingSlasherKnown(slasher));
        _terms[slasher].from = activeFrom;
        emit SlasherProposed(slasher, activeFrom);
    }
}
