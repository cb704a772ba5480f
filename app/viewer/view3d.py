"""What both 3D views share: the mouse, the labels, and the choice of who draws."""

from __future__ import annotations

import logging
from typing import Protocol

import numpy as np
from PyQt5.QtCore import QPoint, QPointF, Qt
from PyQt5.QtGui import (
    QColor,
    QFont,
    QMouseEvent,
    QOffscreenSurface,
    QOpenGLContext,
    QOpenGLVersionProfile,
    QPainter,
    QWheelEvent,
)
from PyQt5.QtWidgets import QWidget

from manypose.app.viewer import look
from manypose.app.viewer.space import Bodies, Float, Orbit

log = logging.getLogger(__name__)


class View3D(Protocol):
    """What the window knows of a 3D view, whoever draws it."""

    orbit: Orbit
    interval_s: float

    def show_bodies(self, bodies: Bodies, frusta: Float) -> None:
        """Show these people and camera pyramids (line ends) from now on."""

    def refresh(self) -> None:
        """Repaint with the present orbit."""

    def widget(self) -> QWidget:
        """Return the widget to place in a window."""


def make_view() -> View3D:
    """Return a 3D view: by OpenGL where a context can be had, else painted (with a warning)."""
    from manypose.app.viewer.painter import PaintedView

    renderer = opengl_renderer()
    if renderer is None:
        log.warning("No OpenGL here: the 3D view is painted without it (simpler, same contents).")
        return PaintedView()
    try:
        from manypose.app.viewer.scene import Scene
    except ImportError as error:
        log.warning("The 3D view is painted without OpenGL: %s", error)
        return PaintedView()
    software = any(word in renderer.lower() for word in ("llvmpipe", "softpipe", "swrast"))
    log.info("3D view by OpenGL: %s", renderer)
    return Scene(software)


def opengl_renderer() -> str | None:
    """Return the name of the OpenGL renderer, None where no context can be made."""
    context = QOpenGLContext()
    if not context.create():
        return None
    surface = QOffscreenSurface()
    surface.setFormat(context.format())
    surface.create()
    if not surface.isValid() or not context.makeCurrent(surface):
        return None
    try:
        profile = QOpenGLVersionProfile()
        profile.setVersion(2, 0)
        functions = context.versionFunctions(profile)
        if functions is None or context.format().version() < (2, 1):
            return None
        functions.initializeOpenGLFunctions()
        return str(functions.glGetString(0x1F01))  # GL_RENDERER
    finally:
        context.doneCurrent()


class Steering:
    """Mouse and wheel of a 3D view: drag turns, right drag shifts, wheel nears."""

    def __init__(self, view: View3D) -> None:
        self._view = view
        self._last = QPoint()

    def press(self, event: QMouseEvent) -> None:
        """Start a drag."""
        self._last = event.pos()

    def move(self, event: QMouseEvent) -> None:
        """Turn or shift the view by what the mouse moved."""
        step = event.pos() - self._last
        self._last = event.pos()
        orbit = self._view.orbit
        if event.buttons() & (Qt.RightButton | Qt.MiddleButton):
            orbit.pan(step.x(), step.y(), self._view.widget().width())
        elif event.buttons() & Qt.LeftButton:
            orbit.turn(step.x(), step.y())
        self._view.refresh()

    def wheel(self, event: QWheelEvent) -> None:
        """Go nearer or farther."""
        self._view.orbit.zoom(event.angleDelta().y() / 120)
        self._view.refresh()


def paint_labels(painter: QPainter, orbit: Orbit, bodies: Bodies, width: int, height: int) -> None:
    """Write every person's number over the head, and what the grid measures."""
    font = QFont(painter.font())
    font.setPixelSize(13)
    font.setBold(True)
    painter.setFont(font)
    for track_id, joints in zip(bodies.ids, bodies.joints_m):
        known = joints[np.isfinite(joints).all(1)]
        if not len(known):
            continue
        top = known[known[:, 2].argmax()] + [0, 0, 0.2]
        x, y, _ = orbit.project(top, width, height)
        if np.isfinite(x) and np.isfinite(y):
            painter.setPen(QColor(*look.person_colour(track_id)))
            painter.drawText(QPointF(x - 4 * len(str(track_id)), y), str(track_id))
    font.setPixelSize(11)
    font.setBold(False)
    painter.setFont(font)
    painter.setPen(QColor(look.FAINT))
    note = "grid 1 m" if orbit.grid else ""
    if orbit.follow:
        note += "   following the nearest"
    painter.drawText(12, height - 12, note.strip())
