"""The demo's dishonest parties: who they are and what they serve."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from retally.devnet.options import NodeSpec
from retally.devnet.tools import repo_root

_CHEATING_NODE = ("tests", "adversaries", "cheating_node.py")


class StoryFailed(Exception):
    """The story did not go as it must."""


def cheating_node(name: str, cheat: str) -> NodeSpec:
    """The real node, on an engine with cheaper weights or around an engine that lies."""
    if cheat == "weights":
        # It replays with what it served, sees nothing wrong, and would appeal; it knows better.
        return NodeSpec(name=name, engine="cheaper", settings={"appeal_budget": 0})
    program = (str(repo_root().joinpath(*_CHEATING_NODE)),)
    return NodeSpec(name=name, program=program, arguments=("--cheat", cheat))


def make_cheaper_weights(folder: Path) -> Path:
    """Quantise the model's weights to 4-bit groups, as a node that saves memory would."""
    script = repo_root() / "scripts" / "make_cheaper_weights.py"
    command = [sys.executable, str(script), "--kind", "int4", "--out", str(folder)]
    made = subprocess.run(command, capture_output=True, text=True, check=False)
    if made.returncode:
        raise StoryFailed(f"the cheaper weights could not be made: {made.stderr[-500:]}")
    return folder
