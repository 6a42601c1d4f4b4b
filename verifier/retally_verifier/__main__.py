"""`python -m retally_verifier --config verifier.toml`."""

from __future__ import annotations

from retally_verifier.bootstrap import run
from retally_verifier.settings import VerifierSettings


def main() -> None:
    """Serve with the settings of a file."""
    run(VerifierSettings.of_command_line("retally_verifier", "Run a retally verifier."))


if __name__ == "__main__":
    main()
