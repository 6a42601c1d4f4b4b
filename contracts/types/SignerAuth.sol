// SPDX-License-Identifier: Apache-2.0
pragma solidity >=0.8.34 <0.9.0;

bytes32 constant SIGNER_AUTH_TYPEHASH = keccak256(
    "SignerAuth(address payer,address signer,uint96 cap,uint40 expiry,uint40 deadline)"
);

/// @notice Proof by a session signer that it agrees to spend for a payer, up to a cap and an expiry.
struct SignerAuth {
    address payer;
    address signer;
    uint96 cap;
    uint40 expiry;
    uint40 deadline;
}

using {hash} for SignerAuth global;

/// @notice EIP-712 struct hash. Every field is one static word, so the ABI encoding is the typed encoding.
function hash(SignerAuth memory self) pure returns (bytes32) {
    return keccak256(abi.encode(SIGNER_AUTH_TYPEHASH, self));
}
