// SPDX-License-Identifier: Apache-2.0
pragma solidity >=0.8.34 <0.9.0;

/// @notice EIP-712 digests in the protocol's one domain, and EIP-2098 signatures with low s.
library Signatures {
    bytes32 private constant DOMAIN_TYPEHASH =
        keccak256("EIP712Domain(string name,string version,uint256 chainId,address verifyingContract)");
    bytes32 private constant NAME_HASH = keccak256("retally");
    bytes32 private constant VERSION_HASH = keccak256("1");
    /// @dev Half the order of secp256k1: a signature with a larger s is a second spelling of the same one.
    uint256 private constant HALF_ORDER = 0x7fffffffffffffffffffffffffffffff5d576e7357a4501ddfe92f46681b20a0;
    uint256 private constant S_MASK = (1 << 255) - 1;

    error SignatureWrongLength(uint256 length);
    error SignatureNotBy(address expected, address recovered);

    /// @notice Domain separator for the Escrow at `escrow` on this chain, rebuilt so that a fork cannot replay.
    function domainSeparator(address escrow) internal view returns (bytes32) {
        return keccak256(abi.encode(DOMAIN_TYPEHASH, NAME_HASH, VERSION_HASH, block.chainid, escrow));
    }

    /// @notice Digest that a signer of `structHash` signed in `domain`.
    /// @dev keccak(0x1901 ‖ domain ‖ structHash), encoded where free memory begins, which stays free.
    function digest(bytes32 domain, bytes32 structHash) internal pure returns (bytes32 hash) {
        assembly ("memory-safe") {
            let at := mload(0x40)
            mstore(at, shl(240, 0x1901))
            mstore(add(at, 2), domain)
            mstore(add(at, 34), structHash)
            hash := keccak256(at, 66)
        }
    }

    /// @notice Signer of `hash`, or zero for anything that is not a canonical signature.
    function recover(bytes32 hash, bytes32 r, bytes32 vs) internal pure returns (address) {
        uint256 s = uint256(vs) & S_MASK;
        if (s > HALF_ORDER) return address(0);
        return ecrecover(hash, uint8((uint256(vs) >> 255) + 27), r, bytes32(s));
    }

    /// @notice `recover` of `digest`, encoded where free memory begins, which stays free: for many in one call.
    function recoverIn(bytes32 domain, bytes32 structHash, bytes32 r, bytes32 vs) internal view returns (address by) {
        bytes32 hash = digest(domain, structHash);
        uint256 s = uint256(vs) & S_MASK;
        if (s > HALF_ORDER) return address(0);
        assembly ("memory-safe") {
            let at := mload(0x40)
            mstore(at, hash)
            mstore(add(at, 0x20), add(shr(255, vs), 27))
            mstore(add(at, 0x40), r)
            mstore(add(at, 0x60), s)
            mstore(0x00, 0)
            // Of no signature the precompile returns nothing, and leaves the zero.
            pop(staticcall(gas(), 1, at, 0x80, 0x00, 0x20))
            by := mload(0x00)
        }
    }

    /// @notice As `recover`, of the 64 bytes r ‖ vs.
    function recover(bytes32 hash, bytes memory signature) internal pure returns (address) {
        (bytes32 r, bytes32 vs) = split(signature);
        return recover(hash, r, vs);
    }

    /// @notice Reverts unless `signer` signed `hash`.
    function check(bytes32 hash, bytes32 r, bytes32 vs, address signer) internal pure {
        address recovered = recover(hash, r, vs);
        require(recovered == signer && signer != address(0), SignatureNotBy(signer, recovered));
    }

    /// @notice As `check`, of the 64 bytes r ‖ vs.
    function check(bytes32 hash, bytes memory signature, address signer) internal pure {
        (bytes32 r, bytes32 vs) = split(signature);
        check(hash, r, vs, signer);
    }

    /// @notice The two words of a 64-byte signature.
    function split(bytes memory signature) internal pure returns (bytes32 r, bytes32 vs) {
        require(signature.length == 64, SignatureWrongLength(signature.length));
        (r, vs) = abi.decode(signature, (bytes32, bytes32));
    }
}
