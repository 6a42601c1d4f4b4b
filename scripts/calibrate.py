"""Measure the devnet's calibration: `retally verifier calibrate` on an engine of its own, with the cheats' weights.

Usage: scripts/calibrate.py [--engine-url URL] [--model FOLDER] [--jobs N] [--tokens N] [--out FOLDER] [--shards FOLDER]
"""

from __future__ import annotations

import argparse
import asyncio
import json
import tempfile
from pathlib import Path

from make_cheaper_weights import KINDS, make_cheaper
from retally.devnet.catalogue import CALIBRATIONS
from retally.devnet.engine_server import EngineServer, model_name_of, share_cores
from retally.devnet.tools import devnet_model_dir
from retally.protocol.encoding import to_hex
from retally_verifier.calibrate.plan import Plan
from retally_verifier.calibrate.run import Sizes, calibrate

SHARDS = Path(__file__).resolve().parent.parent / ".cache" / "calibration"


async def measure(given: argparse.Namespace, folder: Path) -> None:
    """On a running engine, or one that is started for it."""
    cheaper = {kind: folder / kind for kind in KINDS}
    for kind, path in cheaper.items():
        make_cheaper(kind, given.model, path)
    url, server = given.engine_url, None
    if url is None:
        name = model_name_of(given.model)
        server = EngineServer(given.model, folder, mark=str(folder), model_name=name, cores=share_cores(1)[0])
        await server.start()
        url = server.url
    try:
        plan = Plan.of_devnet(given.model, url, cheaper)
        made = await calibrate(plan, Sizes(given.jobs, given.tokens), given.shards, given.out, None, print)
    finally:
        if server is not None:
            await server.stop()
    print(f"{made.path}: {to_hex(made.calibration.hash)}")
    print(json.dumps(made.calibration.to_json()["measured"]))


def main() -> None:
    """Read the arguments and measure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--engine-url", help="a running engine with the genuine model; one is started otherwise")
    parser.add_argument("--model", type=Path, default=devnet_model_dir())
    parser.add_argument("--jobs", type=int, default=240)
    parser.add_argument("--tokens", type=int, default=64)
    parser.add_argument("--out", type=Path, default=CALIBRATIONS)
    parser.add_argument("--shards", type=Path, default=SHARDS)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        asyncio.run(measure(given, Path(folder)))


if __name__ == "__main__":
    main()
