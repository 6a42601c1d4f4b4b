"""The wrappers of the contracts name only functions that the contracts have."""

from __future__ import annotations

import ast
import importlib
import inspect
import pkgutil

import pytest

import retally.chain
from retally.chain.abi import load_abi
from retally.chain.asset import Asset
from retally.chain.audits import Audits
from retally.chain.contract import Contract
from retally.chain.court import Court
from retally.chain.escrow import Escrow
from retally.chain.faults import Faults
from retally.chain.juror_pools import JurorPools
from retally.chain.registry import Registry
from retally.chain.silence import Silence
from retally.chain.staking import Staking

WRAPPERS = (Asset, Audits, Court, Escrow, Faults, JurorPools, Registry, Silence, Staking)


def named_functions(wrapper: type[Contract]) -> set[str]:
    """What the wrapper passes to `call`, `view` and `views`."""
    calls = (node for node in ast.walk(ast.parse(inspect.getsource(wrapper))) if isinstance(node, ast.Call))
    named = (
        call for call in calls if isinstance(call.func, ast.Attribute) and call.func.attr in {"call", "view", "views"}
    )
    return {call.args[0].value for call in named if isinstance(call.args[0], ast.Constant)}


@pytest.mark.parametrize("wrapper", WRAPPERS)
def test_wrappers_name_functions_of_their_contract(wrapper: type[Contract]) -> None:
    named = named_functions(wrapper)
    assert named
    assert named <= set(load_abi(wrapper.NAME).functions)


def test_every_wrapper_is_looked_at() -> None:
    # Whatever ran before: a wrapper that nothing has imported yet counts, too.
    for module in pkgutil.iter_modules(retally.chain.__path__, "retally.chain."):
        importlib.import_module(module.name)
    ours = {each for each in Contract.__subclasses__() if each.__module__.startswith("retally.")}
    assert set(WRAPPERS) == ours
