// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

import {IERC20} from "@openzeppelin/contracts/token/ERC20/IERC20.sol";
import {SafeERC20} from "@openzeppelin/contracts/token/ERC20/utils/SafeERC20.sol";
import {ReentrancyGuardTransient} from "@openzeppelin/contracts/utils/ReentrancyGuardTransient.sol";

import {Pause} from "./Pause.sol";
import {IEscrow} from "../interfaces/IEscrow.sol";
import {IRandomness} from "../interfaces/IRandomness.sol";
import {IRegistry} from "../interfaces/IRegistry.sol";
import {IStaking} from "../interfaces/IStaking.sol";
import {Signatures} from "../libraries/Signatures.sol";

/// @notice Everything the Escrow stores, its fixed parameters, and the only ways for the asset in and out.
abstract contract EscrowState is IEscrow, Pause, ReentrancyGuardTransient {
    using SafeERC20 for IERC20;

    /// @dev `reserves` tells in the same slot whether the payer's reservations must be looked at.
    struct Account {
        uint96 balance;
        uint96 thawing;
        uint40 thawEnd;
        bool reserves;
        uint96 reserved;
    }

    struct Signer {
        uint96 cap;
        uint96 used;
        uint40 expiry;
    }

    struct Set {
        uint96 granted;
        uint96 remaining;
        uint32 epoch;
        uint40 releaseEnd;
    }

    /// @dev A word, though no more than a uint96 is ever stored: nothing else shares the slot.
    struct Channel {
        uint256 collected;
    }

    IERC20 internal immutable ASSET;
    IStaking internal immutable STAKING;
    IRegistry internal immutable REGISTRY;
    IRandomness internal immutable RANDOMNESS;
    uint40 internal immutable THAW_PERIOD;
    uint40 internal immutable EXPOSURE_WINDOW;
    uint40 internal immutable HELD_PERIOD;
    uint32 internal immutable SEED_DELAY;
    /// @dev The domain is kept for the chain it was made on; a fork of the chain gets another.
    uint256 private immutable CHAIN_ID = block.chainid;
    bytes32 private immutable DOMAIN = Signatures.domainSeparator(address(this));

    mapping(address payer => Account) internal _accounts;
    mapping(address payer => mapping(address signer => Signer)) internal _signers;
    mapping(address payer => mapping(address node => mapping(address signer => Set))) internal _reservations;
    mapping(bytes32 channelKey => Channel) internal _channels;

    constructor(
        IERC20 asset_,
        IStaking staking,
        IRegistry registry,
        IRandomness randomness,
        Parameters memory p
    ) {
        uint40 stakeThaw = staking.parameters().thawPeriod;
        // A payer leaves before its node's exposure window, and that before the node's stake.
        require(
            0 < p.thawPeriod && p.thawPeriod < p.exposureWindow && p.exposureWindow < stakeThaw
                && p.heldPeriod <= stakeThaw && p.exposureWindow < p.heldPeriod,
            EscrowDelaysOutOfOrder(p.thawPeriod, p.exposureWindow, stakeThaw)
        );
        ASSET = asset_;
        STAKING = staking;
        REGISTRY = registry;
        RANDOMNESS = randomness;
        THAW_PERIOD = p.thawPeriod;
        EXPOSURE_WINDOW = p.exposureWindow;
        HELD_PERIOD = p.heldPeriod;
        SEED_DELAY = p.seedDelay;
    }

    /// @inheritdoc IEscrow
    function asset() external view returns (address) {
        return address(ASSET);
    }

    /// @inheritdoc IEscrow
    function parameters() external view returns (Parameters memory) {
        return Parameters(THAW_PERIOD, EXPOSURE_WINDOW, HELD_PERIOD, SEED_DELAY);
    }

    /// @inheritdoc IEscrow
    function domainSeparator() public view returns (bytes32) {
        return block.chainid == CHAIN_ID ? DOMAIN : Signatures.domainSeparator(address(this));
    }

    /// @dev An asset that keeps a fee on transfers would make liabilities exceed what is here.
    function _pull(address from, uint96 amount) internal {
        uint256 before = ASSET.balanceOf(address(this));
        ASSET.safeTransferFrom(from, address(this), amount);
        uint256 received = ASSET.balanceOf(address(this)) - before;
        require(received == amount, EscrowTransferMismatch(amount, received));
    }

    function _push(address to, uint256 amount) internal {
        ASSET.safeTransfer(to, amount);
    }

    /// @dev Takes from the pooled balance; what thaws is what is left at most.
    function _debit(Account storage a, uint96 amount) internal {
        uint96 balance = a.balance - amount;
        a.balance = balance;
        if (a.thawing > balance) a.thawing = balance;
    }
}
