"""`python -m retally_verifier --config verifier.toml`."""

from __future__ import annotations

import argparse
from pathlib import Path

from retally_verifier.bootstrap import run
from retally_verifier.settings import load_settings


def main() -> None:
    """Serve with the settings of a file."""
    parser = argparse.ArgumentParser(prog="retally_verifier", description="Run a retally verifier.")
    parser.add_argument("--config", type=Path, required=True, help="verifier.toml")
    run(load_settings(parser.parse_args().config))


if __name__ == "__main__":
    main()
