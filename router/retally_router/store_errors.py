"""What goes wrong with the store, whichever client speaks to it."""

from __future__ import annotations


class StoreError(Exception):
    """The store did not do what it was asked, or nobody knows whether it did."""


class StoreUnreachable(StoreError):
    """There is no connection."""


class StoreTimeout(StoreError):
    """It was silent for too long."""


class StoreRefused(StoreError):
    """It answered a command with an error."""


class ScriptUnknown(StoreRefused):
    """It was asked for a script by a hash that it does not know."""
