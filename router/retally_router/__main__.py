"""`python -m retally_router --config router.toml`."""

from __future__ import annotations

import argparse
from pathlib import Path

from retally_router.bootstrap import run
from retally_router.settings import load_settings


def main() -> None:
    """Reads the settings and serves."""
    parser = argparse.ArgumentParser(prog="retally_router", description="A router of the retally market.")
    parser.add_argument("--config", type=Path, required=True, help="TOML file with the router's settings")
    run(load_settings(parser.parse_args().config))


if __name__ == "__main__":
    main()
