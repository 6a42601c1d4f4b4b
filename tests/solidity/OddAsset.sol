// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

/// @notice An asset in one of the ways in which assets in use differ from ERC-20.
contract OddAsset {
    enum Oddity {
        None,
        AnswersNothing,
        AnswersFalse
    }

    Oddity public oddity;
    uint256 public totalSupply;
    mapping(address account => uint256) public balanceOf;
    mapping(address account => mapping(address spender => uint256)) public allowance;
    mapping(address account => bool) public isBlacklisted;

    error Blacklisted(address account);
    error Insufficient(uint256 available, uint256 required);

    function turn(Oddity oddity_) external {
        oddity = oddity_;
    }

    function faucet(address to, uint256 amount) external {
        balanceOf[to] += amount;
        totalSupply += amount;
    }

    function blacklist(address account, bool listed) external {
        isBlacklisted[account] = listed;
    }

    function approve(address spender, uint256 amount) external {
        allowance[msg.sender][spender] = amount;
        _answer(true);
    }

    function transfer(address to, uint256 amount) external {
        _answer(_move(msg.sender, to, amount));
    }

    function transferFrom(address from, address to, uint256 amount) external {
        uint256 allowed = allowance[from][msg.sender];
        require(allowed >= amount, Insufficient(allowed, amount));
        allowance[from][msg.sender] = allowed - amount;
        _answer(_move(from, to, amount));
    }

    /// @dev One that answers false moves nothing and does not revert.
    function _move(address from, address to, uint256 amount) private returns (bool) {
        require(!isBlacklisted[from], Blacklisted(from));
        require(!isBlacklisted[to], Blacklisted(to));
        if (oddity == Oddity.AnswersFalse) return false;
        require(balanceOf[from] >= amount, Insufficient(balanceOf[from], amount));
        balanceOf[from] -= amount;
        balanceOf[to] += amount;
        return true;
    }

    function _answer(bool moved) private view {
        if (oddity == Oddity.AnswersNothing) return;
        assembly ("memory-safe") {
            mstore(0x00, moved)
            return(0x00, 0x20)
        }
    }
}
