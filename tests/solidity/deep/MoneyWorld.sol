// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

import {BlockhashRandomness} from "../../../contracts/BlockhashRandomness.sol";
import {DevAsset} from "../../../contracts/DevAsset.sol";
import {Escrow} from "../../../contracts/Escrow.sol";
import {Registry} from "../../../contracts/Registry.sol";
import {Staking} from "../../../contracts/Staking.sol";
import {IEscrow} from "../../../contracts/interfaces/IEscrow.sol";
import {IRegistry} from "../../../contracts/interfaces/IRegistry.sol";
import {IStaking} from "../../../contracts/interfaces/IStaking.sol";
import {Signatures} from "../../../contracts/libraries/Signatures.sol";
import {NodeAuth} from "../../../contracts/types/NodeAuth.sol";
import {Reservation} from "../../../contracts/types/Reservation.sol";
import {OPERATOR} from "../../../contracts/types/Role.sol";
import {SignerAuth} from "../../../contracts/types/SignerAuth.sol";
import {Voucher} from "../../../contracts/types/Voucher.sol";
import {vm} from "./Vm.sol";

/// @notice The contracts of money on a chain of their own, with two payers, their session signers, two owners with a
/// node each, and one slasher whose word is law.
abstract contract MoneyWorld {
    uint256 internal constant START = 400 days;
    uint96 internal constant DOLLAR = 1e6;
    uint96 internal constant FUNDS = 1_000_000e6;
    uint96 internal constant CAP = 20e6;
    uint96 internal constant UNIT = 200;
    uint40 internal constant LIFE = 30 days;
    bytes32 internal constant MODEL = "model";
    bytes32 internal constant PROFILE = "profile";
    address internal constant BURNED = 0x000000000000000000000000000000000000dEaD;
    address internal constant SLASHER = address(0x51A5);
    address internal constant GUARDIAN = address(0x60A2D);
    /// @dev Keys of payers 1 and 2, of their signers 11 and 12, of owners 21 and 22, of nodes 31 and 32.
    uint256 internal constant PAYER = 1;
    uint256 internal constant SESSION = 11;
    uint256 internal constant OWNER = 21;
    uint256 internal constant NODE = 31;

    /// @dev Addresses of these keys: deriving one takes longer than a call.
    address[2] internal _payers;
    address[2] internal _sessions;
    address[2] internal _owners;
    address[2] internal _nodes;

    DevAsset internal asset;
    Staking internal staking;
    Registry internal registry;
    Escrow internal escrow;

    function _deploy() internal {
        vm.warp(START);
        vm.roll(1_000);
        for (uint256 i; i < 2; ++i) {
            (_payers[i], _sessions[i]) = (vm.addr(PAYER + i), vm.addr(SESSION + i));
            (_owners[i], _nodes[i]) = (vm.addr(OWNER + i), vm.addr(NODE + i));
        }
        asset = new DevAsset();
        uint256 nonce = vm.getNonce(address(this));
        address escrowAt = vm.computeCreateAddress(address(this), nonce + 3);
        address[] memory slashers = new address[](1);
        slashers[0] = SLASHER;
        staking = new Staking(asset, escrowAt, address(this), GUARDIAN, _stakingParameters(), slashers);
        registry = new Registry(staking, escrowAt, address(this), _registryParameters());
        escrow = new Escrow(
            asset, address(this), GUARDIAN, staking, registry, new BlockhashRandomness(), _escrowParameters()
        );
        registry.addModel(MODEL, UNIT, "", "");
        registry.addProfile(PROFILE, "");
    }

    /// @dev Gives every party assets, payers a deposit and a session, owners a stake and a node.
    function _populate() internal {
        for (uint256 i; i < 2; ++i) {
            _fund(_payer(i));
            _fund(_owner(i));
            vm.prank(_payer(i));
            escrow.deposit(_payer(i), 200 * DOLLAR);
            _authorize(i, CAP, uint40(block.timestamp) + LIFE);
            vm.prank(_owner(i));
            staking.stake(OPERATOR, 2_000 * DOLLAR);
            _registerNode(i);
        }
    }

    function _fund(address who) internal {
        asset.faucet(who, FUNDS);
        vm.startPrank(who);
        asset.approve(address(escrow), type(uint256).max);
        asset.approve(address(staking), type(uint256).max);
        vm.stopPrank();
    }

    function _authorize(uint256 who, uint96 cap, uint40 expiry) internal {
        uint40 deadline = uint40(block.timestamp);
        address session = _session(who);
        SignerAuth memory auth = SignerAuth(_payer(who), session, cap, expiry, deadline);
        (bytes32 r, bytes32 vs) = _sign(SESSION + who, auth.hash());
        vm.prank(_payer(who));
        escrow.authorizeSigner(session, cap, expiry, deadline, r, vs);
    }

    function _registerNode(uint256 i) internal {
        address owner = _owner(i);
        uint40 deadline = uint40(block.timestamp);
        (bytes32 r, bytes32 vs) = _sign(NODE + i, NodeAuth(owner, _node(i), deadline).hash());
        vm.startPrank(owner);
        registry.registerNode(_node(i), MODEL, PROFILE, "", deadline, r, vs);
        registry.setDelegate(_node(i), true);
        vm.stopPrank();
    }

    /// @dev An item of `collect` whose voucher the key `by` signed.
    function _item(Voucher memory v, uint96 covered, uint256 by) internal view returns (bytes memory) {
        (bytes32 r, bytes32 vs) = _sign(by, v.hash());
        return abi.encodePacked(v.payer, v.signer, v.lane, v.cumulative, covered, r, vs);
    }

    function _signReservation(address payer, address signer, address node, uint96 cumulative, uint32 epoch, uint256 by)
        internal
        view
        returns (bytes32 r, bytes32 vs)
    {
        return _sign(by, Reservation(payer, signer, node, cumulative, epoch).hash());
    }

    function _sign(uint256 key, bytes32 structHash) internal view returns (bytes32 r, bytes32 vs) {
        uint8 v;
        bytes32 s;
        bytes32 digest = Signatures.digest(Signatures.domainSeparator(address(escrow)), structHash);
        (v, r, s) = vm.sign(key, digest);
        vs = v == 28 ? bytes32(uint256(s) | (1 << 255)) : s;
    }

    function _payer(uint256 i) internal view returns (address) {
        return _payers[i];
    }

    function _session(uint256 i) internal view returns (address) {
        return _sessions[i];
    }

    function _owner(uint256 i) internal view returns (address) {
        return _owners[i];
    }

    function _node(uint256 i) internal view returns (address) {
        return _nodes[i];
    }

    function _stakingParameters() internal pure returns (IStaking.Parameters memory) {
        return IStaking.Parameters({
            minimumOperator: 1_000 * DOLLAR,
            minimumRouter: 500 * DOLLAR,
            minimumVerifier: 250 * DOLLAR,
            thawPeriod: 21 days,
            slasherDelay: 28 days,
            // Small enough that payments of this world reach the exposure cap.
            exposurePpm: 5_000,
            mismatchPpm: 500_000,
            tilingPpm: 400_000,
            overbillingPpm: 300_000,
            conflictPpm: 100_000,
            dutyPpm: 20_000,
            challengerCapPpm: 300_000,
            jurorsCapPpm: 200_000
        });
    }

    function _registryParameters() internal pure returns (IRegistry.Parameters memory) {
        return IRegistry.Parameters({
            newOwnerPeriod: 28 days,
            warningPeriod: 28 days,
            calibrationDelay: 28 days,
            newStepUnits: 5,
            establishedStepUnits: 50,
            newSharePpm: 300_000,
            establishedSharePpm: 30_000
        });
    }

    function _escrowParameters() internal pure returns (IEscrow.Parameters memory) {
        return IEscrow.Parameters({thawPeriod: 3 days, exposureWindow: 7 days, heldPeriod: 21 days, seedDelay: 4});
    }
}
