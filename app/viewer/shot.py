"""A picture of the real window on a run: ``python -m manypose.app.viewer.shot OUT.png DIR``.

Makes the pictures of the documentation. Needs a display (xvfb-run serves).
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

from manypose.errors import ManyposeError, OutputError


def take(out: Path, folder: Path, at_s: float, width: int, height: int) -> None:
    """Write a PNG of the window, showing the run in a folder at a time.

    Raises:
        DeviceError: there is no display.
        SourceError: there is no run in the folder.
        OutputError: the picture cannot be written.
    """
    from manypose.app.formats.reading import load_run
    from manypose.app.replay import Replay
    from manypose.app.viewer import application

    app = application()
    from manypose.app.viewer.window import Window

    replay = Replay(load_run(folder))
    replay.set_paused(True)
    window = Window(replay)
    window.resize(width, height)
    window.show()

    def wait(seconds: float) -> None:
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            app.processEvents()
            time.sleep(0.005)

    # walk up to the moment, so that floor, heights and point of view have settled
    for k in range(40):
        replay.seek(at_s * k / 40)
        wait(0.06)
    replay.seek(at_s)
    wait(2.0)
    saved = window.grab().save(str(out))
    window.close()
    if not saved:
        raise OutputError(f"{out}: the picture cannot be written. Choose another name or folder.")


def main() -> int:
    """Run the command; returns its exit code."""
    parser = argparse.ArgumentParser(prog="python -m manypose.app.viewer.shot")
    parser.add_argument("out", type=Path, metavar="OUT.png")
    parser.add_argument("run", type=Path, metavar="DIR", help="folder of a run or a session")
    parser.add_argument("--at", type=float, default=2.0, metavar="S", help="time in the run")
    parser.add_argument("--width", type=int, default=1360)
    parser.add_argument("--height", type=int, default=760)
    args = parser.parse_args()
    try:
        take(args.out, args.run, args.at, args.width, args.height)
    except ManyposeError as error:
        sys.stderr.write(f"{error}\n")
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main())
