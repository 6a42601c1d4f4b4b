"""The contract tests' chain."""

from __future__ import annotations

from tests.contracts.conftest import contract_chain_url, deployed_world

__all__ = ["contract_chain_url", "deployed_world"]
