"""Doctor's look at the window: Qt, its system libraries and OpenGL, each tried in a process.

Qt aborts the whole process when its platform plug-in cannot be loaded, so it is never tried here.
"""

from __future__ import annotations

import importlib.util
import os
import platform
import shutil
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path

from manypose.app.doctor import NOTE, OK, WARNING, Check

# System library -> Debian or Ubuntu package.
_PACKAGE = {
    "libdbus-1.so.3": "libdbus-1-3",
    "libEGL.so.1": "libegl1",
    "libfontconfig.so.1": "libfontconfig1",
    "libfreetype.so.6": "libfreetype6",
    "libGL.so.1": "libgl1",
    "libglib-2.0.so.0": "libglib2.0-0",
    "libgthread-2.0.so.0": "libglib2.0-0",
    "libX11-xcb.so.1": "libx11-xcb1",
    "libxcb-icccm.so.4": "libxcb-icccm4",
    "libxcb-image.so.0": "libxcb-image0",
    "libxcb-keysyms.so.1": "libxcb-keysyms1",
    "libxcb-randr.so.0": "libxcb-randr0",
    "libxcb-render-util.so.0": "libxcb-render-util0",
    "libxcb-render.so.0": "libxcb-render0",
    "libxcb-shape.so.0": "libxcb-shape0",
    "libxcb-shm.so.0": "libxcb-shm0",
    "libxcb-sync.so.1": "libxcb-sync1",
    "libxcb-xfixes.so.0": "libxcb-xfixes0",
    "libxcb-xinerama.so.0": "libxcb-xinerama0",
    "libxcb-xkb.so.1": "libxcb-xkb1",
    "libxkbcommon-x11.so.0": "libxkbcommon-x11-0",
    "libxkbcommon.so.0": "libxkbcommon0",
}
_WINDOW = "import cv2; from PyQt5.QtWidgets import QApplication, QWidget; a=QApplication([]);"
_TRY_WINDOW = _WINDOW + "w=QWidget(); w.show(); a.processEvents(); print(a.platformName())"
_TRY_GL = (
    _WINDOW + "from PyQt5.QtGui import QOpenGLContext, QOffscreenSurface; c=QOpenGLContext();"
    "ok=c.create(); s=QOffscreenSurface(); s.create(); ok=ok and c.makeCurrent(s);"
    "f=c.format(); print(f'{f.majorVersion()}.{f.minorVersion()}' if ok else 'none')"
)


def window() -> Iterable[Check]:
    """Return whether a window and a 3D view can be opened."""
    if importlib.util.find_spec("PyQt5") is None:
        yield Check("window", NOTE, "PyQt5 is not installed: no window, all else works",
                    "for the window: pip install 'manypose[gui]'")  # fmt: skip
        return
    missing = missing_libraries()
    if missing:
        yield Check("window, system libraries", WARNING, f"missing {', '.join(missing)}",
                    apt_line(missing))  # fmt: skip
        return
    if platform.system() == "Linux" and not (
        os.environ.get("DISPLAY")
        or os.environ.get("WAYLAND_DISPLAY")
        or os.environ.get("QT_QPA_PLATFORM")
    ):
        yield Check("window", NOTE, "no display here (DISPLAY is unset): use manypose run, or"
                    " start manypose live under xvfb-run")  # fmt: skip
        return
    code, text = _tried(_TRY_WINDOW)
    if code != 0:
        yield Check("window", WARNING, f"Qt cannot open one: {text or f'it ended with {code}'}",
                    "pip uninstall -y opencv-python opencv-contrib-python; pip install"
                    " --force-reinstall opencv-python-headless PyQt5")  # fmt: skip
        return
    yield Check("window", OK, f"Qt opens one ({text})")
    code, text = _tried(_TRY_GL)
    if code == 0 and text not in ("", "none"):
        yield Check("3D view", OK, f"OpenGL {text}")
    else:
        yield Check("3D view", NOTE, "no OpenGL: the simpler painted view is used")


def missing_libraries() -> list[str]:
    """Return the system libraries that Qt's X11 plug-in asks for and that are not there."""
    spec = importlib.util.find_spec("PyQt5")
    places = list(spec.submodule_search_locations or ()) if spec is not None else []
    ldd = shutil.which("ldd")
    if platform.system() != "Linux" or not places or ldd is None:
        return []
    lost: set[str] = set()
    qt = Path(places[0]) / "Qt5"
    for file in ("plugins/platforms/libqxcb.so", "lib/libQt5Core.so.5", "lib/libQt5Gui.so.5"):
        if not (qt / file).is_file():
            continue
        done = subprocess.run(
            [ldd, str(qt / file)], capture_output=True, text=True, timeout=30, check=False
        )
        lost |= {
            line.split()[0]
            for line in done.stdout.splitlines()
            if "not found" in line and not line.strip().startswith("libQt5")
        }
    return sorted(lost)


def apt_line(libraries: Iterable[str]) -> str:
    """Return the one line that installs system libraries on Debian and Ubuntu."""
    packages = sorted({_PACKAGE.get(name, name) for name in libraries})
    return f"sudo apt-get install -y --no-install-recommends {' '.join(packages)}"


def _tried(program: str) -> tuple[int, str]:
    """Run a program in a process of its own; return its exit code and last line."""
    try:
        done = subprocess.run(
            [sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=False
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        return 1, str(error)
    lines = (done.stdout if done.returncode == 0 else done.stderr).strip().splitlines()
    return done.returncode, lines[-1] if lines else ""
