// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

import {StakeBook} from "../../../contracts/base/StakeBook.sol";
import {IRandomness} from "../../../contracts/interfaces/IRandomness.sol";
import {OPERATOR} from "../../../contracts/types/Role.sol";
import {IRegistry} from "../../../contracts/interfaces/IRegistry.sol";
import {ERC20} from "@openzeppelin/contracts/token/ERC20/ERC20.sol";
import {MoneyWorld} from "./MoneyWorld.sol";
import {OpenEscrow, OpenStaking} from "./OpenContracts.sol";
import {vm} from "./Vm.sol";

/// @notice An asset without a faucet's limit.
contract ProofAsset is ERC20 {
    constructor() ERC20("proof", "PROOF") {}

    function mint(address to, uint256 amount) external {
        _mint(to, amount);
    }
}

/// @notice What the Escrow asks the Registry and the randomness, answered for one owner and one node.
contract Stubs {
    address private immutable _OWNER;

    constructor(address owner) {
        _OWNER = owner;
    }

    function commitTerms(address, address caller) external view returns (address, uint96, uint32, bool) {
        // No audit share: its rounding is fuzzed, and proving about products of open numbers takes solvers too long.
        return (_OWNER, 1_000, 0, caller == _OWNER);
    }

    function currentBlock() external view returns (uint256) {
        return block.number;
    }
}

/// @notice The contracts are the real ones; their state, and what moves by how much, is left open.
abstract contract ProofSetup is MoneyWorld {
    address internal constant PAYING = address(0xA11CE);
    address internal constant SIGNING = address(0x516);
    address internal constant EARNING = address(0xB0B);
    address internal constant SERVING = address(0x0DE);

    ProofAsset internal proofAsset;
    OpenStaking internal openStaking;
    OpenEscrow internal openEscrow;

    function setUp() public {
        proofAsset = new ProofAsset();
        address[] memory slashers = new address[](1);
        slashers[0] = SLASHER;
        openStaking = new OpenStaking(proofAsset, address(this), _stakingParameters(), slashers);
        Stubs stubs = new Stubs(EARNING);
        openEscrow = new OpenEscrow(
            proofAsset, openStaking, IRegistry(address(stubs)), IRandomness(address(stubs)), _escrowParameters()
        );
        vm.warp(START);
        StakeBook.Stake memory s = StakeBook.Stake(1_000 * DOLLAR, 0, 0, uint32(START));
        openStaking.put(EARNING, OPERATOR, s, StakeBook.Locks(0, 0));
    }
}
