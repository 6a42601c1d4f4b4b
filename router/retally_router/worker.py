"""The process that serves: `python -m retally_router.worker FD`, which `start.py` becomes once all is checked."""

from __future__ import annotations

import os
import signal
import sys
from typing import NoReturn

import msgspec

from retally.errors import RetallyError
from retally_router.checked_settings import CheckedSettings

MODULE = "retally_router.worker"
AS_JSON = "--json"
INTERRUPTED = 130


def become_worker(settings: CheckedSettings, module: str = MODULE, *args: str) -> NoReturn:
    """Goes on as a worker in this very process, under its id: what only the start needed is memory no more.

    The settings hold a key, so they go through a pipe: neither arguments nor environment, which others could read.
    """
    reading, writing = os.pipe()
    os.set_inheritable(reading, True)
    # Some kilobytes at most: the pipe takes them without a reader.
    with os.fdopen(writing, "wb") as out:
        out.write(msgspec.json.encode(settings))
    # -P and this path: the worker finds modules where this process did, and nowhere else.
    path = os.pathsep.join(part or os.getcwd() for part in sys.path)
    command = [sys.executable, "-P", "-m", module, str(reading), *args]
    # Ctrl-C waits until the worker can end on it: no module's import is the place for it.
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    os.execve(sys.executable, command, {**os.environ, "PYTHONPATH": path})


def taken_settings(descriptor: str) -> CheckedSettings:
    """The settings that such a start handed over; a Ctrl-C that came since then counts from here on."""
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
    with os.fdopen(int(descriptor), "rb") as handed:
        return msgspec.json.decode(handed.read(), type=CheckedSettings)


def main() -> None:
    """Serves until a signal comes."""
    if len(sys.argv) < 2 or not sys.argv[1].isdecimal():
        sys.exit("start a router with: retally router serve --config router.toml")
    try:
        settings = taken_settings(sys.argv[1])
        from retally_router.serve import run

        run(settings)
    except KeyboardInterrupt:
        # As a signal that was not handled is told; only before it serves, which has its own way to end.
        sys.exit(INTERRUPTED)
    except RetallyError as error:
        # Loaded only to tell it, as the command would have.
        from retally.cli.output import exit_code, print_error

        print_error(error, as_json=AS_JSON in sys.argv[2:])
        sys.exit(exit_code(error))


if __name__ == "__main__":
    main()
