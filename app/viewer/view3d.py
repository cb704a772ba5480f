"""What both 3D views share: the mouse, the labels, and the choice of who draws."""

from __future__ import annotations

import logging
from typing import Protocol

import numpy as np
from PyQt5.QtCore import QEvent, QObject, QPoint, QPointF, Qt
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
        from manypose.app.viewer.scene import CopiedScene, Scene
    except ImportError as error:
        log.warning("The 3D view is painted without OpenGL: %s", error)
        return PaintedView()
    software = any(word in renderer.lower() for word in ("llvmpipe", "softpipe", "swrast"))
    log.info("3D view by OpenGL: %s", renderer)
    return CopiedScene() if software else Scene()


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


class Steering(QObject):
    """Mouse and wheel of a 3D view: drag turns, right drag shifts, wheel nears, twice resets."""

    def __init__(self, view: View3D) -> None:
        super().__init__(view.widget())
        self._view = view
        self._last = QPoint()
        view.widget().installEventFilter(self)

    def eventFilter(self, _: QObject, event: QEvent) -> bool:  # noqa: N802 - Qt's name
        """Take the mouse events of the view; everything else goes its way."""
        orbit = self._view.orbit
        if isinstance(event, QWheelEvent):
            orbit.zoom(event.angleDelta().y() / 120)
        elif not isinstance(event, QMouseEvent):
            return False
        elif event.type() == QEvent.MouseButtonPress:
            self._last = event.pos()
        elif event.type() == QEvent.MouseMove:
            step = event.pos() - self._last
            self._last = event.pos()
            if event.buttons() & (Qt.RightButton | Qt.MiddleButton):
                orbit.pan(step.x(), step.y(), self._view.widget().width())
            elif event.buttons() & Qt.LeftButton:
                orbit.turn(step.x(), step.y())
        elif event.type() == QEvent.MouseButtonDblClick:
            orbit.reset()
        self._view.refresh()
        return True


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
    notes = ["grid 1 m" if orbit.grid else "", orbit.note]
    notes.append("following the nearest" if orbit.follow else "")
    painter.drawText(12, height - 12, "   ".join(n for n in notes if n))
