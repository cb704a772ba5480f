"""The verb ``play``: a recorded run or session again, in the window or to other programs."""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

from manypose.app.options import add_streams
from manypose.errors import SourceError, UsageError

if TYPE_CHECKING:
    from manypose.app.replay import Replay
    from manypose.pose.records import FrameResult

_NAP_S = 0.05  # so that Ctrl-C never waits for a slow replay


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the verb's options."""
    parser.add_argument(
        "run", nargs="?", default="last", metavar="DIR",
        help="folder of a run or a recorded session; last = the newest (default)",
    )  # fmt: skip
    parser.add_argument("--speed", type=float, default=1.0, help="1 = real time (default)")
    parser.add_argument("--loop", action="store_true", help="begin again at the end")
    add_streams(parser, "streams (what is shown, at the speed of the replay)")
    parser.add_argument(
        "--no-gui", action="store_true",
        help="no window: every frame at its time as a JSON line on stdout, then leave",
    )  # fmt: skip
    parser.add_argument(
        "--format", choices=("jsonl", "none"), help="what goes to stdout (--no-gui): jsonl"
    )


def run(args: argparse.Namespace) -> int:
    """Show the run until the window is closed, or send it to its end; returns 0."""
    if not 0 < args.speed <= 100:
        raise UsageError("--speed must be above 0 and at most 100.")
    if args.format is not None and not args.no_gui:
        raise UsageError("--format belongs to --no-gui; the window writes nothing to stdout.")
    if not args.no_gui:
        from manypose.app.viewer import check_display

        check_display()
    from manypose.app.formats.reading import load_run
    from manypose.app.remembered import last_run
    from manypose.app.replay import Replay
    from manypose.app.stream import streaming

    folder = Path(args.run)
    if args.run == "last" and not folder.exists():
        folder = last_run()
    stored = load_run(folder)
    if not len(stored):
        raise SourceError(f"{folder}: this run has no frames; there is nothing to show.")
    with streaming(args) as streams:
        sinks = [stream.put for stream in streams]
        if args.no_gui:
            sinks += [_line] if args.format != "none" else []
            if not sinks:
                raise UsageError("--no-gui --format none: give --vmc, --osc, --udp or --websocket.")
            replay = Replay(stored, speed=args.speed, loop=args.loop, pictures=False, sinks=sinks)
            return _send(replay)
        from manypose.app.viewer import application

        application()
        from manypose.app.viewer.window import show

        return show(Replay(stored, speed=args.speed, loop=args.loop, sinks=sinks))


def _send(replay: Replay) -> int:
    """Play to the end without a window; returns 0."""
    while True:
        replay.views()
        if replay.paused():
            return 0
        time.sleep(min(replay.until_next_s(), _NAP_S))


def _line(result: FrameResult) -> None:
    from manypose.app.formats.jsonl import frame_object

    sys.stdout.write(json.dumps(frame_object(result), allow_nan=False) + "\n")
    sys.stdout.flush()
