"""The main window: videos beside the 3D view, the side panel, the status line, the keys.

The window only paints: a timer fetches the newest state from the feed, 30 times a second for the
pictures and less often for the 3D view where it is drawn by software.
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import datetime
from pathlib import Path

import numpy as np
from PyQt5.QtCore import Qt, QTimer
from PyQt5.QtGui import QCloseEvent, QKeyEvent
from PyQt5.QtWidgets import (
    QApplication,
    QGridLayout,
    QHBoxLayout,
    QLabel,
    QMainWindow,
    QSizePolicy,
    QSplitter,
    QVBoxLayout,
    QWidget,
)

from manypose.app.viewer import look
from manypose.app.viewer.feed import Feed, View
from manypose.app.viewer.panel import SidePanel
from manypose.app.viewer.sheet import Sheet
from manypose.app.viewer.space import NOBODY, Bodies, Room
from manypose.app.viewer.timeline import Timeline
from manypose.app.viewer.video import VideoPane
from manypose.app.viewer.view3d import make_view
from manypose.errors import ManyposeError

log = logging.getLogger(__name__)

_INTERVAL_MS = 33
_PANEL_S = 0.12
_CAMERAS_APART_M = 6.0


class Window(QMainWindow):
    """Shows one feed until it is closed; `feed.close()` has been called when it is gone."""

    def __init__(self, feed: Feed) -> None:
        super().__init__()
        self._feed = feed
        self._closed = False
        self._mode = "both"
        self._rooms: dict[str, Room] = {}
        self._layout: tuple[object, ...] = ()
        self._panel_at = 0.0
        self._space_key: tuple[int, ...] = ()
        self._space_at = 0.0
        self._note = ""
        self._note_until = 0.0
        self.setWindowTitle(feed.title)
        self.setStyleSheet(look.STYLE)
        self.resize(1360, 760)
        self.panes: list[VideoPane] = []
        self._videos = QWidget()
        self._videos_grid = QGridLayout(self._videos)
        self._videos_grid.setContentsMargins(0, 0, 0, 0)
        self._videos_grid.setSpacing(2)
        self.space = make_view()
        self._split = QSplitter(Qt.Horizontal)
        self._split.addWidget(self._videos)
        self._split.addWidget(self.space.widget())
        self._split.setSizes([560, 560])
        self._split.setHandleWidth(2)
        self.panel = SidePanel(feed, self._record, "Press ? for all keys")
        upper = QWidget()
        row = QHBoxLayout(upper)
        row.setContentsMargins(0, 0, 0, 0)
        row.setSpacing(0)
        row.addWidget(self._split, 1)
        row.addWidget(self.panel)
        whole = QWidget()
        column = QVBoxLayout(whole)
        column.setContentsMargins(0, 0, 0, 0)
        column.setSpacing(0)
        column.addWidget(upper, 1)
        self.timeline = None if feed.play is None else Timeline(feed.play, self._pause)
        if self.timeline is not None:
            column.addWidget(self.timeline)
        self.status = QLabel(" ")
        self.status.setObjectName("status")
        self.status.setTextFormat(Qt.PlainText)
        # a long line must not widen the window
        self.status.setSizePolicy(QSizePolicy.Ignored, QSizePolicy.Fixed)
        column.addWidget(self.status)
        self.setCentralWidget(whole)
        self._sheet = Sheet(whole, feed.details)
        for child in whole.findChildren(QWidget):
            child.setFocusPolicy(Qt.NoFocus)
        self.setFocusPolicy(Qt.StrongFocus)
        if self.panel.live is not None and feed.live is not None:
            self.panel.live.smooth(feed.live.first_smoothing)
        self._timer = QTimer(self)
        self._timer.setTimerType(Qt.PreciseTimer)
        self._timer.timeout.connect(self._tick)
        self._timer.start(_INTERVAL_MS)

    def _tick(self) -> None:
        if self._feed.finished():
            self.close()
            return
        views = self._feed.views()
        self._arrange(views)
        for pane, view in zip(self.panes, views):
            pane.show_view(view)
        now = time.perf_counter()
        if now - self._space_at >= self.space.interval_s * 0.9:
            self._show_space(views, now)
        if now - self._panel_at > _PANEL_S:
            self._panel_at = now
            self.panel.show_views(views)
        if self.timeline is not None:
            self.timeline.refresh(self._feed.paused())
        self._show_status(now)
        self._sheet.refresh()

    def _arrange(self, views: Sequence[View]) -> None:
        """Make a pane for every view, in the grid that shows them largest."""
        columns = _columns(len(views), self._videos.width(), self._videos.height())
        layout = (*(view.name for view in views), columns)
        if layout == self._layout:
            return
        self._layout = layout
        for pane in self.panes:
            self._videos_grid.removeWidget(pane)
        for pane in self.panes[len(views) :]:
            pane.deleteLater()
        del self.panes[len(views) :]
        while len(self.panes) < len(views):
            pane = VideoPane(self._feed.painted)
            pane.setFocusPolicy(Qt.NoFocus)
            pane.mirror = self.space.orbit.mirror
            self.panes.append(pane)
        for k, pane in enumerate(self.panes):
            pane.named = len(views) > 1
            self._videos_grid.addWidget(pane, k // columns, k % columns)

    def _show_space(self, views: Sequence[View], now: float) -> None:
        """Hand the people of all cameras to the 3D view; several cameras stand side by side."""
        key = tuple(view.serial for view in views)
        dt = min(now - self._space_at, 0.5)
        if self._mode == "video" or (key == self._space_key and not self.space.orbit.follow):
            return
        self._space_key, self._space_at = key, now
        parts, frusta = [], []
        for k, view in enumerate(views):
            room = self._rooms.setdefault(view.name, Room())
            bodies = room.bodies(view.people, view.camera, view.time_s, view.up)
            aside = np.array([_CAMERAS_APART_M * (k - (len(views) - 1) / 2), 0, 0])
            sign = np.array([-1.0 if self.space.orbit.mirror else 1.0, 1, 1])
            parts.append(replace(bodies, joints_m=bodies.joints_m * sign + aside))
            if view.camera is not None:
                frusta.append(room.frustum(view.camera) * sign + aside)
        bodies = (
            Bodies(
                np.concatenate([p.joints_m for p in parts]),
                np.concatenate([p.state for p in parts]),
                tuple(i for p in parts for i in p.ids),
            )
            if parts
            else NOBODY
        )
        guessed = any(v.camera is not None and v.camera.source == "fov-guess" for v in views)
        self.space.orbit.note = (
            "scale from a guessed field of view: --fov or --camera is better" if guessed else ""
        )
        self.space.orbit.frame(bodies, dt)
        self.space.show_bodies(bodies, np.concatenate(frusta) if frusta else np.zeros((0, 3)))

    def _show_status(self, now: float) -> None:
        status = self._feed.status()
        text, level = status.text, status.level
        if now < self._note_until:
            text = f"{self._note}    {text}"
        if self.status.text() != text:
            self.status.setText(text)
        colour = look.LEVEL_COLOURS[level]
        if self.status.property("level") != level:
            self.status.setProperty("level", level)
            self.status.setStyleSheet(f"color: {colour};")

    def note(self, text: str) -> None:
        """Show a sentence in front of the status line for some seconds."""
        self._note, self._note_until = text, time.perf_counter() + 6

    # keys

    def keyPressEvent(self, event: QKeyEvent) -> None:  # noqa: N802 - Qt's name
        """Do what the key says (`sheet.KEYS`)."""
        action = self._actions().get(event.key())
        if action is None and event.text() == "?":
            action = self._sheet.toggle_keys
        if action is None:
            super().keyPressEvent(event)
        elif not event.isAutoRepeat() or event.key() in (Qt.Key_Left, Qt.Key_Right):
            action()

    def _actions(self) -> dict[int, Callable[[], None]]:
        def step(frames: int) -> Callable[[], None]:
            return lambda: None if self._feed.play is None else self._feed.play.step(frames)

        def faster(by: int) -> Callable[[], None]:
            return lambda: None if self.timeline is None else self.timeline.faster(by)

        def preset(number: int) -> Callable[[], None]:
            return lambda: None if self.panel.live is None else self.panel.live.preset(number)

        return {
            Qt.Key_Space: self._pause,
            Qt.Key_R: self._record,
            Qt.Key_S: self.snapshot,
            Qt.Key_M: self._mirror,
            Qt.Key_V: self._cycle,
            Qt.Key_D: lambda: self._show_mode("both" if self._mode == "3D" else "3D"),
            Qt.Key_1: preset(0),
            Qt.Key_2: preset(1),
            Qt.Key_3: preset(2),
            Qt.Key_F: self._follow,
            Qt.Key_G: self._toggle_grid,
            Qt.Key_O: self._toggle_overlay,
            Qt.Key_B: self._sheet.toggle_details,
            Qt.Key_Home: self._home,
            Qt.Key_Left: step(-1),
            Qt.Key_Right: step(1),
            Qt.Key_Up: faster(1),
            Qt.Key_Down: faster(-1),
            Qt.Key_F11: self._full_screen,
            Qt.Key_F1: self._sheet.toggle_keys,
            Qt.Key_Escape: self.close,
        }

    def _pause(self) -> None:
        self._feed.set_paused(not self._feed.paused())

    def _record(self) -> None:
        if self._feed.live is None:
            return
        starts = self._feed.live.recorded_s() is None
        try:
            folder = self._feed.live.set_recording(starts)
        except ManyposeError as error:
            self.note(str(error))
            return
        self.note(f"recording to {folder}" if starts else f"recorded: {folder}")

    def snapshot(self) -> Path | None:
        """Save a picture of the window; returns its path, None if it could not be written."""
        folder = Path(self._feed.snapshot_folder())
        path = folder / f"manypose-{datetime.now():%Y%m%d-%H%M%S-%f}.png"
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            self.note(f"snapshot failed: {error}")
            return None
        if not self.grab().save(str(path)):
            self.note(f"snapshot failed: {path} cannot be written")
            return None
        self.note(f"snapshot: {path}")
        return path

    def _mirror(self) -> None:
        self.space.orbit.mirror = not self.space.orbit.mirror
        for pane in self.panes:
            pane.mirror = self.space.orbit.mirror
            pane.update()
        self._space_key = ()

    def _cycle(self) -> None:
        modes = ("both", "video", "3D")
        self._show_mode(modes[(modes.index(self._mode) + 1) % 3])

    def _show_mode(self, mode: str) -> None:
        self._mode = mode
        self._videos.setVisible(mode != "3D")
        self.space.widget().setVisible(mode != "video")
        self._space_key = ()

    def _follow(self) -> None:
        self.space.orbit.follow = not self.space.orbit.follow
        self.space.refresh()

    def _toggle_grid(self) -> None:
        self.space.orbit.grid = not self.space.orbit.grid
        self._space_key = ()
        self.space.refresh()

    def _toggle_overlay(self) -> None:
        for pane in self.panes:
            pane.overlay = not pane.overlay
            pane.update()

    def _home(self) -> None:
        self.space.orbit.reset()
        self._space_key = ()
        self.space.refresh()

    def _full_screen(self) -> None:
        if self.isFullScreen():
            self.showNormal()
        else:
            self.showFullScreen()

    def closeEvent(self, event: QCloseEvent) -> None:  # noqa: N802 - Qt's name
        """Stop the timer, then let the feed finish its files."""
        if not self._closed:
            self._closed = True
            self._timer.stop()
            self._feed.close()
        event.accept()


def _columns(count: int, width: int, height: int) -> int:
    """Return how many columns show so many 16:9 pictures largest in this room."""

    def scale(columns: int) -> float:
        return min(width / columns / 16, height / math.ceil(count / columns) / 9)

    return max(range(1, count + 1), key=scale)


def show(feed: Feed) -> int:
    """Open a window on the feed, return 0 when it has been closed; Ctrl-C closes it too.

    Raises:
        DeviceError: there is no display.
        KeyboardInterrupt: Ctrl-C, after the window has closed cleanly.
        SystemExit: the system asked the program to end; the same, with 143.
    """
    import signal

    from manypose.app.viewer import application

    app = application()
    window = Window(feed)
    interrupted = []

    def stop(number: int, _frame: object) -> None:
        interrupted.append(number)
        window.close()

    before = {s: signal.signal(s, stop) for s in (signal.SIGINT, signal.SIGTERM)}
    try:
        window.show()
        app.exec_()
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        window.deleteLater()
        QApplication.processEvents()
    if signal.SIGINT in interrupted:
        raise KeyboardInterrupt
    if interrupted:
        raise SystemExit(128 + interrupted[0])
    return 0
