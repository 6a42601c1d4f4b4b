// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

/// @notice A payer that is a contract: it signs by ERC-1271 what it was told to, and does what it is told.
contract ContractPayer {
    bytes4 private constant VALID = 0x1626ba7e;

    mapping(bytes32 digest => bytes32) public signatureHash;

    function sign(bytes32 digest, bytes calldata signature) external {
        signatureHash[digest] = keccak256(signature);
    }

    function act(address target, bytes calldata data) external returns (bytes memory answer) {
        bool done;
        (done, answer) = target.call(data);
        if (!done) {
            assembly ("memory-safe") {
                revert(add(answer, 32), mload(answer))
            }
        }
    }

    function isValidSignature(bytes32 digest, bytes calldata signature) external view returns (bytes4) {
        return signatureHash[digest] == keccak256(signature) ? VALID : bytes4(0xffffffff);
    }
}
