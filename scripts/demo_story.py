"""The whole story on a fresh devnet: pay, serve, collect, audit, judge, slash, refund. Started by `scripts/demo`."""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from demo_acts import Story, StoryOptions
from demo_cheats import StoryFailed
from demo_memory import PeakMemory
from demo_narrator import Narrator
from retally.errors import RetallyError

CHEATS = ("none", "weights", "sampler", "prompt")


def main(arguments: Sequence[str] | None = None) -> int:
    """Tell the story; the last line of standard output is one JSON object."""
    parser = argparse.ArgumentParser(prog="scripts/demo", description=__doc__)
    parser.add_argument(
        "--cheat", default="weights", help=f"what the fourth node does: {', '.join(CHEATS)}; several with commas"
    )
    parser.add_argument("--seed", type=int, default=7, help="fixes keys, prompts and client seeds")
    parser.add_argument("--jobs", type=int, default=28, help="completions in a round of traffic")
    parser.add_argument("--engine-url", default=None, help="an engine that already serves the devnet's model")
    parser.add_argument("--json", action="store_true", help="nothing but the JSON object on standard output")
    parser.add_argument("--keep", type=Path, default=None, help="keep keys, settings and logs in this folder")
    parser.add_argument("--setup-started", type=float, default=None, help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    cheats = tuple(name for name in options.cheat.split(",") if name != "none")
    if unknown := set(cheats) - set(CHEATS):
        parser.error(f"--cheat {', '.join(sorted(unknown))} is not one of {', '.join(CHEATS)}")
    setup_seconds = time.time() - options.setup_started if options.setup_started else 0.0
    narrator = Narrator(quiet=options.json)
    with tempfile.TemporaryDirectory(prefix="retally-demo-") as scratch, PeakMemory() as memory:
        home = options.keep or Path(scratch)
        story = Story(StoryOptions(home, options.seed, cheats, options.jobs, options.engine_url), narrator)
        try:
            report = asyncio.run(story.tell())
        except KeyboardInterrupt:
            print("demo: interrupted; all its processes were ended", file=sys.stderr)
            return 130
        except (StoryFailed, RetallyError) as error:
            print(f"demo: {error}\n{story.logs_hint()}", file=sys.stderr)
            return 1
    report["setup_seconds"] = round(setup_seconds, 1)
    report["run_seconds"] = round(narrator.seconds, 1)
    report["peak_rss_mb"] = memory.peak_mb
    print(json.dumps(report), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
