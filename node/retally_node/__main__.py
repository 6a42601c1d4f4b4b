"""`python -m retally_node --config node.toml`."""

from __future__ import annotations

from retally_node.bootstrap import run
from retally_node.settings import NodeSettings


def main() -> None:
    """Serve with the settings of a file."""
    run(NodeSettings.of_command_line("retally_node", "Serve a retally node."))


if __name__ == "__main__":
    main()
