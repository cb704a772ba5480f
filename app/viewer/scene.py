"""The 3D view on OpenGL (pyqtgraph)."""

from __future__ import annotations

import numpy as np
import pyqtgraph.opengl as gl
from PyQt5.QtCore import Qt
from PyQt5.QtGui import (
    QImage,
    QPainter,
    QPaintEvent,
    QSurfaceFormat,
    QVector3D,
)
from PyQt5.QtWidgets import QWidget

from manypose.app.viewer import look
from manypose.app.viewer.figure import figures, shadows
from manypose.app.viewer.space import NOBODY, Bodies, Float, Orbit, grid_lines
from manypose.app.viewer.view3d import Steering, paint_labels


class _Labels(QWidget):
    """A clear sheet over the OpenGL view for text."""

    def __init__(self, scene: Scene) -> None:
        super().__init__(scene)
        self._scene = scene
        self.setAttribute(Qt.WA_TransparentForMouseEvents)
        self.setAttribute(Qt.WA_NoSystemBackground)
        self.setStyleSheet("background: transparent;")

    def paintEvent(self, _: QPaintEvent) -> None:  # noqa: N802 - Qt's name
        painter = QPainter(self)
        painter.setRenderHint(QPainter.TextAntialiasing)
        paint_labels(painter, self._scene.orbit, self._scene.bodies, self.width(), self.height())


class Scene(gl.GLViewWidget):
    """Skeletons in a room with a metre grid, drawn by OpenGL."""

    interval_s = 1 / 60

    def __init__(self, samples: int = 4) -> None:
        super().__init__()
        self.orbit = Orbit()
        self.bodies = NOBODY
        if samples:
            wanted = QSurfaceFormat(self.format())
            wanted.setSamples(samples)
            self.setFormat(wanted)
        self.setFocusPolicy(Qt.NoFocus)
        self.setBackgroundColor(look.BACKGROUND)
        self.setMinimumSize(160, 120)
        Steering(self)
        self._frusta = np.zeros((0, 3))
        self._grid_at: tuple[float, float] | None = None
        self._grid = gl.GLLinePlotItem(mode="lines", width=1, glOptions="translucent")
        self._shadow = gl.GLLinePlotItem(
            mode="lines", width=5, color=(0, 0, 0, 0.55), glOptions="translucent"
        )
        self._frustum = gl.GLLinePlotItem(
            mode="lines", width=1.5, color=(0.62, 0.68, 0.78, 0.9), glOptions="translucent"
        )
        self._mesh = gl.GLMeshItem(smooth=True, computeNormals=False, glOptions="opaque")
        for item in (self._grid, self._shadow, self._frustum, self._mesh):
            self.addItem(item)
        for item in (self._shadow, self._frustum, self._mesh):
            item.setVisible(False)  # nothing to draw yet
        self._labels = _Labels(self)

    def widget(self) -> QWidget:
        """Return the widget to place in a window."""
        return self

    def show_bodies(self, bodies: Bodies, frusta: Float) -> None:
        """Show these people and camera pyramids (line ends) from now on."""
        self.bodies = bodies
        vertices, faces, colours = figures(bodies)
        self._mesh.setVisible(len(vertices) > 0)
        if len(vertices):
            self._mesh.setMeshData(
                vertexes=vertices, faces=faces, vertexColors=colours, smooth=True,
                computeNormals=False,
            )  # fmt: skip
        flat = shadows(bodies)
        self._shadow.setVisible(len(flat) > 0 and self.orbit.grid)
        if len(flat):
            self._shadow.setData(pos=flat)
        self._frustum.setVisible(len(frusta) > 0)
        if len(frusta):
            self._frustum.setData(pos=frusta.astype(np.float32))
        self.refresh()

    def refresh(self) -> None:
        """Repaint with the present orbit."""
        self.update()
        self._labels.update()

    def _place_grid(self) -> None:
        at = (float(np.round(self.orbit.target[0])), float(np.round(self.orbit.target[1])))
        self._grid.setVisible(self.orbit.grid)
        if at != self._grid_at:
            points, opacity = grid_lines(self.orbit.target)
            colour = np.column_stack([np.full((len(points), 3), (0.36, 0.45, 0.6)), 0.85 * opacity])
            self._grid.setData(pos=points.astype(np.float32), color=colour.astype(np.float32))
            self._grid_at = at

    def paintGL(self) -> None:  # noqa: N802 - Qt's name
        """Draw the scene as the orbit sees it."""
        self._place_grid()
        target = self.orbit.target
        self.opts.update(
            center=QVector3D(*map(float, target)),
            distance=self.orbit.eye_distance,
            elevation=self.orbit.elevation_deg,
            azimuth=self.orbit.azimuth_deg,
            fov=self.orbit.FOV_DEG,
        )
        super().paintGL()

    def resizeEvent(self, event: object) -> None:  # noqa: N802
        """Keep the sheet of labels as large as the view."""
        super().resizeEvent(event)
        self._labels.resize(self.size())


class CopiedScene(QWidget):
    """The same scene where OpenGL is software: rendered aside, then copied into a plain widget.

    An OpenGL widget inside a window makes Qt compose the whole window by OpenGL whenever any part
    of it changes; with Mesa's software renderer that costs more than all drawing together.
    """

    interval_s = 1 / 15

    def __init__(self) -> None:
        super().__init__()
        self._scene = Scene(samples=0)
        self._scene.setAttribute(Qt.WA_DontShowOnScreen)
        self._scene.setAttribute(Qt.WA_QuitOnClose, False)
        self._scene.show()
        self._scene.setUpdatesEnabled(False)  # it is drawn when copied, never by itself
        self.destroyed.connect(self._scene.deleteLater)
        self.orbit = self._scene.orbit
        self._copy: QImage | None = None
        self.setFocusPolicy(Qt.NoFocus)
        self.setAttribute(Qt.WA_OpaquePaintEvent)
        self.setMinimumSize(160, 120)
        Steering(self)

    def widget(self) -> QWidget:
        """Return the widget to place in a window."""
        return self

    def show_bodies(self, bodies: Bodies, frusta: Float) -> None:
        """Show these people and camera pyramids (line ends) from now on."""
        self._scene.show_bodies(bodies, frusta)
        self.refresh()

    def refresh(self) -> None:
        """Repaint with the present orbit."""
        self._copy = None
        self.update()

    def paintEvent(self, _: QPaintEvent) -> None:  # noqa: N802 - Qt's name
        """Copy the picture and write the labels."""
        if self._copy is None or self._copy.size() != self.size():
            self._scene.resize(self.size())
            self._copy = self._scene.grabFramebuffer()
        painter = QPainter(self)
        painter.drawImage(self.rect(), self._copy)
        painter.setRenderHint(QPainter.TextAntialiasing)
        paint_labels(painter, self.orbit, self._scene.bodies, self.width(), self.height())
