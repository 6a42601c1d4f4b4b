"""Plays that need a network of their own: verifiers, payers, routers and pairs that lie."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from typing import Any

OwnPlay = Callable[[Path, int, str], Awaitable[dict[str, Any]]]

OWN_PLAYS: Mapping[str, OwnPlay] = {}
