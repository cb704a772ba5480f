"""The verb ``play``: a recorded run or session again in the window, at any speed."""

from __future__ import annotations

import argparse
from pathlib import Path

from manypose.errors import SourceError, UsageError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the verb's options."""
    parser.add_argument(
        "run", nargs="?", default="last", metavar="DIR",
        help="folder of a run or a recorded session; last = the newest (default)",
    )  # fmt: skip
    parser.add_argument("--speed", type=float, default=1.0, help="1 = real time (default)")
    parser.add_argument("--loop", action="store_true", help="begin again at the end")


def run(args: argparse.Namespace) -> int:
    """Show the run until the window is closed; returns 0."""
    if not 0 < args.speed <= 100:
        raise UsageError("--speed must be above 0 and at most 100.")
    from manypose.app.viewer import check_display

    check_display()
    from manypose.app.formats.reading import load_run
    from manypose.app.remembered import last_run

    folder = Path(args.run)
    if args.run == "last" and not folder.exists():
        folder = last_run()
    stored = load_run(folder)
    if not len(stored):
        raise SourceError(f"{folder}: this run has no frames; there is nothing to show.")
    from manypose.app.replay import Replay
    from manypose.app.viewer import application

    application()
    from manypose.app.viewer.window import show

    return show(Replay(stored, speed=args.speed, loop=args.loop))
