"""The first thing anybody sees: the sample clip in the window, or its files where none can open."""

from __future__ import annotations

import os
import platform
import sys
from collections.abc import Sequence
from pathlib import Path

from manypose.app.main import main

SAMPLE = Path(__file__).resolve().parent / "sample.mp4"
_HEADLESS_FOLDER = "demo_out"


def demo(words: Sequence[str]) -> int:
    """Show a source in the window, or run it headless and say where overlay and files are.

    Args:
        words: a source first, if any (a video, a camera's number, a stream), then options of
            ``manypose live`` or ``manypose run``.

    Returns:
        The exit code.
    """
    given = bool(words) and not words[0].startswith("-")
    source, options = (words[0], list(words[1:])) if given else (str(SAMPLE), list(words))
    if not given:
        if not SAMPLE.exists():
            sys.stderr.write("The sample clip is missing; give a video: run_demo.py clip.mp4\n")
            return 4
        sys.stderr.write("Sample: a few seconds of computer-made people, not real footage.\n")
    if "--no-gui" not in options and _window_possible():
        again = [] if given else ["--loop"]  # the sample lasts a few seconds only
        return main(["live", "--source", source, *again, *options])
    options = [o for o in options if o != "--no-gui"]
    sys.stderr.write("No display: running without a window.\n")
    outputs = [] if "-o" in options else ["-o", _HEADLESS_FOLDER]
    code = main(["run", source, *outputs, "--video", "--overwrite", *options])
    if code in (0, 3) and outputs:
        folder = Path(_HEADLESS_FOLDER) / Path(source).stem
        sys.stderr.write(
            f"Skeletons over the video: {folder / 'overlay.mp4'}; 3D joints and the rest: {folder}"
            f"{os.sep}\n"
        )
    return code


def _window_possible() -> bool:
    from manypose.app.viewer import check_display
    from manypose.errors import DeviceError

    try:
        check_display()
    except DeviceError:
        return False
    if platform.system() != "Linux":
        return True
    # Qt aborts the process when a system library of its plug-in is missing, so a child tries.
    import subprocess

    trial = "from PyQt5.QtWidgets import QApplication; QApplication([])"
    try:
        done = subprocess.run(
            [sys.executable, "-c", trial], capture_output=True, timeout=30, check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        return False
    return done.returncode == 0
