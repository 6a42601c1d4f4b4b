// SPDX-License-Identifier: Apache-2.0
pragma solidity >=0.8.34 <0.9.0;

/// @dev The roles that stakes are typed by. A stake answers for its own role only.
uint8 constant OPERATOR = 1;
uint8 constant ROUTER = 2;
uint8 constant VERIFIER = 3;
