"""How patiently credit is asked for."""

from __future__ import annotations

import enum


class Patience(enum.Enum):
    """What a refusal has to stand."""

    #: Nothing: who asks goes on without.
    NONE = 0
    #: A fresh look at the chain, and what is free here given back.
    SOME = 1
    #: Others' giving back as well.
    ALL = 2
