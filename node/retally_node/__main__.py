"""`python -m retally_node --config node.toml`."""

from __future__ import annotations

import argparse
from pathlib import Path

from retally_node.bootstrap import run
from retally_node.settings import load_settings


def main() -> None:
    """Serve with the settings of a file."""
    parser = argparse.ArgumentParser(prog="retally_node", description="Serve a retally node.")
    parser.add_argument("--config", type=Path, required=True, help="node.toml")
    run(load_settings(parser.parse_args().config))


if __name__ == "__main__":
    main()
