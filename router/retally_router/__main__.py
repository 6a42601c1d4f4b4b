"""`python -m retally_router --config router.toml`."""

from __future__ import annotations

from retally_router.settings import RouterSettings
from retally_router.start import start


def main() -> None:
    """Serve with the settings of a file."""
    start(RouterSettings.of_command_line("retally_router", "Route jobs of the retally market."))


if __name__ == "__main__":
    main()
