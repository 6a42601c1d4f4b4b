// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

import {StakeBook} from "../../../contracts/base/StakeBook.sol";
import {EscrowState} from "../../../contracts/base/EscrowState.sol";
import {IStaking} from "../../../contracts/interfaces/IStaking.sol";
import {OPERATOR} from "../../../contracts/types/Role.sol";
import {ProofSetup} from "./ProofSetup.sol";
import {vm} from "./Vm.sol";

/// @notice Proofs by symbolic execution (halmos): each holds for every value of its arguments, from every stake.
contract StakingProofs is ProofSetup {
    /// @dev I-10: with any stake, bonded or thawing, locked or not, and any severity: no more is taken than is there.
    function check_slashNeverExceedsStake(uint96 bonded, uint96 thawing, uint96 locked, uint96 severity) public {
        uint256 before = _stake(bonded, thawing, locked);
        (uint256 taken, uint256 refunded, uint256 burned) = _slash(severity);
        assert(taken <= before && taken <= severity && refunded == 0 && burned == taken);
        assert(openStaking.slashable(EARNING, OPERATOR) == before - taken);
        assert(proofAsset.balanceOf(address(openStaking)) == before - taken);
    }

    /// @dev I-24: what thaws can be slashed whole, however long it has thawed, and before what stays.
    function check_thawingStaysSlashable(uint96 bonded, uint96 thawing, uint40 later, uint96 severity) public {
        uint256 before = _stake(bonded, thawing, 0);
        vm.warp(START + later);
        assert(openStaking.slashable(EARNING, OPERATOR) == before);
        (uint256 taken,,) = _slash(severity);
        assert(taken == (severity < before ? severity : before));
        (uint96 bondedLeft, uint96 thawingLeft,,,) = openStaking.stakeOf(EARNING, OPERATOR);
        assert(bondedLeft == bonded || thawingLeft == 0);
        assert(uint256(bondedLeft) + thawingLeft == before - taken);
    }

    /// @dev I-7: nothing leaves before the thaw has passed, and never what a case has locked.
    function check_lockedStakeStays(uint96 bonded, uint96 thawing, uint96 locked, uint40 later) public {
        uint256 before = _stake(bonded, thawing, locked);
        vm.warp(START + later);
        vm.prank(EARNING);
        (bool ok,) = address(openStaking).call(abi.encodeCall(IStaking.withdraw, (OPERATOR)));
        uint256 left = openStaking.slashable(EARNING, OPERATOR);
        if (ok) assert(later >= 21 days && left >= locked && left >= bonded);
        else assert(left == before);
        assert(proofAsset.balanceOf(address(openStaking)) == left);
    }

    /// @dev Thaws end 21 days after the start; there is never more than the asset's supply of 2^95.
    function _stake(uint96 bonded, uint96 thawing, uint96 locked) private returns (uint256 total) {
        vm.assume(bonded < 1 << 94 && thawing < 1 << 94);
        total = uint256(bonded) + thawing;
        StakeBook.Stake memory s = StakeBook.Stake(bonded, thawing, uint32(START + 21 days), uint32(START));
        openStaking.put(EARNING, OPERATOR, s, StakeBook.Locks(locked, locked == 0 ? 0 : 1));
        proofAsset.mint(address(openStaking), total);
    }

    function _slash(uint96 severity) private returns (uint96 taken, uint96 refunded, uint96 burned) {
        IStaking.Slash memory order;
        order.severity = severity;
        vm.prank(SLASHER);
        return openStaking.slash(EARNING, OPERATOR, order);
    }
}

/// @notice Signatures are left open too: whatever words somebody sends, and whatever a key has signed.
contract EscrowProofs is ProofSetup {
    /// @dev I-4: one item moves its channel up or not at all, by no more than voucher, receipts and funds allow.
    function check_collectedWithinFundsAndReceipts(
        uint96 funds,
        uint96 cumulative,
        uint96 covered,
        bytes32 r,
        bytes32 vs
    ) public {
        _account(funds, 0);
        _collect(PAYING, cumulative, covered, r, vs);
        uint96 collected = openEscrow.channel(PAYING, PAYING, SERVING, 0);
        assert(collected <= funds && collected <= cumulative && collected <= covered);
        (uint96 balance,,,) = openEscrow.account(PAYING);
        assert(balance == funds - collected);
        assert(openEscrow.credit(EARNING) + openEscrow.heldOf(EARNING) == collected);
    }

    /// @dev I-4: a voucher that comes again pays nothing again.
    function check_oneVoucherPaysOnce(uint96 funds, uint96 cumulative, bytes32 r, bytes32 vs) public {
        _account(funds, 0);
        _collect(PAYING, cumulative, cumulative, r, vs);
        uint96 first = openEscrow.channel(PAYING, PAYING, SERVING, 0);
        // If funds were short, what comes later pays the rest and no more.
        _account(funds, 0);
        _collect(PAYING, cumulative, cumulative, r, vs);
        uint96 second = openEscrow.channel(PAYING, PAYING, SERVING, 0);
        assert(first <= second && second <= cumulative);
        (uint96 balance,,,) = openEscrow.account(PAYING);
        assert(balance == funds - (second - first));
        assert(openEscrow.credit(EARNING) + openEscrow.heldOf(EARNING) == second);
    }

    /// @dev I-4: after any collect, another voucher, under any signature, never lowers the channel.
    function check_collectedOnlyGrows(uint96 funds, uint96 one, uint96 other, bytes32 r, bytes32 vs, bytes32 r2)
        public
    {
        _account(funds, 0);
        _collect(PAYING, one, one, r, vs);
        uint96 first = openEscrow.channel(PAYING, PAYING, SERVING, 0);
        _collect(PAYING, other, other, r2, vs);
        uint96 second = openEscrow.channel(PAYING, PAYING, SERVING, 0);
        assert(second >= first && second <= funds);
        assert(second == first || second <= other);
    }

    /// @dev I-5: a session signer never takes more than its cap leaves.
    function check_capBoundsSession(uint96 funds, uint96 cap, uint96 used, uint96 cumulative, bytes32 r, bytes32 vs)
        public
    {
        vm.assume(used <= cap);
        _account(funds, 0);
        openEscrow.putSigner(PAYING, SIGNING, EscrowState.Signer(cap, used, uint40(START)));
        _collect(SIGNING, cumulative, cumulative, r, vs);
        (, uint96 usedNow,) = openEscrow.signer(PAYING, SIGNING);
        uint96 collected = openEscrow.channel(PAYING, SIGNING, SERVING, 0);
        assert(usedNow <= cap && usedNow - used == collected);
    }

    function _account(uint96 funds, uint96 thawing) private {
        vm.assume(funds < 1 << 90);
        EscrowState.Account memory a;
        a.balance = funds;
        a.thawing = thawing;
        openEscrow.putAccount(PAYING, a);
    }

    function _collect(address signer, uint96 cumulative, uint96 covered, bytes32 r, bytes32 vs) private {
        bytes memory item = abi.encodePacked(PAYING, signer, uint32(0), cumulative, covered, r, vs);
        vm.prank(EARNING);
        openEscrow.collect(SERVING, item, bytes32("root"));
    }
}
