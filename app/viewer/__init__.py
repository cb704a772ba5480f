"""The window. What must be right before Qt is touched is done here; Qt itself is imported late.

Three things abort a process inside Qt without a Python exception: no display, a plug-in folder
that OpenCV's Qt build left in the environment, and two OpenGL widgets without shared contexts.
"""

from __future__ import annotations

import os
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from manypose.errors import DeviceError

if TYPE_CHECKING:
    from PyQt5.QtWidgets import QApplication


def check_display() -> None:
    """Return if a window can be opened here; imports no Qt.

    Raises:
        DeviceError: there is no display, or PyQt5 is not installed.
    """
    asked = os.environ.get("QT_QPA_PLATFORM", "")
    needs_server = asked.split(":")[0] in ("", "xcb", "wayland")
    has_server = bool(os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY"))
    if sys.platform.startswith("linux") and needs_server and not has_server:
        raise DeviceError(
            "No display found (DISPLAY is unset). Use --no-gui, or start under xvfb-run."
        )
    try:
        import PyQt5.QtCore  # noqa: F401
    except ImportError as error:
        raise DeviceError(
            f"The window needs PyQt5 ({error}). Use --no-gui, or run: pip install 'manypose[gui]'; "
            "manypose doctor lists missing system libraries."
        ) from error


def application() -> QApplication:
    """Return the one QApplication, made with the settings that our widgets need.

    Raises:
        DeviceError: as `check_display`.
    """
    check_display()
    # opencv-python points Qt at its own plug-ins when cv2 is imported; PyQt5 then aborts.
    for name in ("QT_QPA_PLATFORM_PLUGIN_PATH", "QT_QPA_FONTDIR"):
        if "cv2" in os.environ.get(name, ""):
            os.environ.pop(name)
    _runtime_folder()
    from PyQt5.QtCore import QCoreApplication, Qt
    from PyQt5.QtWidgets import QApplication

    running = QApplication.instance()
    if isinstance(running, QApplication):
        return running
    # pyqtgraph keeps shader programs per class: a second 3D view needs the first one's context.
    QCoreApplication.setAttribute(Qt.AA_ShareOpenGLContexts)
    QCoreApplication.setAttribute(Qt.AA_EnableHighDpiScaling)
    QCoreApplication.setAttribute(Qt.AA_UseHighDpiPixmaps)
    made = QApplication(["manypose"])
    made.setApplicationName("manypose")
    return made


def _runtime_folder() -> None:
    """Give Qt a private XDG_RUNTIME_DIR where the system has none, or it complains."""
    if not sys.platform.startswith("linux") or os.environ.get("XDG_RUNTIME_DIR"):
        return
    folder = Path(tempfile.gettempdir()) / f"manypose-runtime-{os.getuid()}"
    folder.mkdir(mode=0o700, exist_ok=True)
    if folder.stat().st_uid == os.getuid():
        os.environ["XDG_RUNTIME_DIR"] = str(folder)
