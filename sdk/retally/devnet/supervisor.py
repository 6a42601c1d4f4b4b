"""The process that keeps a devnet running in the background: `python -m retally.devnet.supervisor FOLDER …`."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
from pathlib import Path

import psutil

from retally.devnet.network import Network
from retally.devnet.options import NetworkOptions, UpOptions
from retally.devnet.state import FAILED, PROGRESS, READY, STATE, SUPERVISOR, forget, write_private
from retally.errors import RetallyError


async def keep(options: NetworkOptions) -> int:
    """Run the network until a signal; whatever happens, end its processes and forget it."""
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    write_private(options.home / SUPERVISOR, {"pid": os.getpid(), "started": psutil.Process().create_time()})
    progress = _Progress(options.home / PROGRESS)
    network = Network(options)
    starting = asyncio.create_task(network.start(progress))
    stopping = asyncio.create_task(stop.wait())
    try:
        await asyncio.wait({starting, stopping}, return_when=asyncio.FIRST_COMPLETED)
        if not starting.done():
            starting.cancel()
            await asyncio.gather(starting, return_exceptions=True)
            progress(f"{FAILED} interrupted")
            return 130
        starting.result()
        write_private(options.home / STATE, {**network.summary(), "pid": os.getpid()})
        progress(READY)
        await stopping
    except RetallyError as error:
        progress(f"{FAILED} {error}")
        return 1
    finally:
        stopping.cancel()
        await network.stop()
        forget(options.home)
    return 0


class _Progress:
    """Lines for whoever watches the start."""

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self._path = path
        self._path.write_text("", encoding="utf-8")

    def __call__(self, line: str) -> None:
        with self._path.open("a", encoding="utf-8") as file:
            file.write(line + "\n")


def main() -> int:
    """Read the folder and the options that `retally devnet up` passes on."""
    return asyncio.run(keep(UpOptions(**json.loads(sys.argv[2])).network(Path(sys.argv[1]))))


if __name__ == "__main__":
    sys.exit(main())
