"""A picture of the real window on a run: ``python -m manypose.app.viewer.shot OUT.jpg DIR``.

Makes the pictures of the documentation (``make pictures``). Needs a display (xvfb-run serves).
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from manypose.errors import ManyposeError, OutputError

if TYPE_CHECKING:
    from manypose.app.live_feed import LiveFeed


def take(out: Path, shown: Sequence[str], at_s: float, size: tuple[int, int], live: bool) -> None:
    """Write a picture of the window: a run at a time, or sources after so many live seconds.

    Raises:
        DeviceError: there is no display.
        SourceError: there is no run in the folder, or no such source.
        OutputError: the picture cannot be written.
    """
    from manypose.app.viewer import application

    app = application()
    from manypose.app.viewer.window import Window

    def wait(seconds: float) -> None:
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            app.processEvents()
            time.sleep(0.005)

    if live:
        feed = _live(shown)
        window = Window(feed)
        window.resize(*size)
        window.show()
        while not all(view.people for view in feed.views()) and feed.source_error() is None:
            wait(0.1)
        wait(at_s)
    else:
        from manypose.app.formats.reading import load_run
        from manypose.app.replay import Replay

        replay = Replay(load_run(shown[0]))
        replay.set_paused(True)
        window = Window(replay)
        window.resize(*size)
        window.show()
        # walk up to the moment, so that floor, heights and point of view have settled
        for k in range(40):
            replay.seek(at_s * k / 40)
            wait(0.06)
        replay.seek(at_s)
        wait(2.0)
    saved = window.grab().save(str(out), quality=88 if out.suffix == ".jpg" else -1)
    window.close()
    if not saved:
        raise OutputError(f"{out}: the picture cannot be written. Choose another name or folder.")


def _live(sources: Sequence[str]) -> LiveFeed:
    from manypose.app.config import Config
    from manypose.app.lanes import Lanes, Playback
    from manypose.app.live_feed import LiveFeed
    from manypose.app.pipeline import load_engine

    lanes = Lanes(sources, Config(), load_engine, playback=Playback(loop=True))
    return LiveFeed(lanes, {})


def main() -> int:
    """Run the command; returns its exit code."""
    parser = argparse.ArgumentParser(prog="python -m manypose.app.viewer.shot")
    parser.add_argument("out", type=Path, metavar="OUT.jpg")
    parser.add_argument("shown", nargs="+", metavar="DIR", help="folder of a run or a session")
    parser.add_argument("--live", action="store_true", help="show DIR... as sources of live")
    parser.add_argument("--at", type=float, default=2.0, metavar="S", help="time in the run")
    parser.add_argument("--width", type=int, default=1360)
    parser.add_argument("--height", type=int, default=760)
    args = parser.parse_args()
    try:
        take(args.out, args.shown, args.at, (args.width, args.height), args.live)
    except ManyposeError as error:
        sys.stderr.write(f"{error}\n")
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main())
