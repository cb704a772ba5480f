"""The 3D view without OpenGL: projected by numpy, drawn by QPainter; same contents, same mouse."""

from __future__ import annotations

import numpy as np
from PyQt5.QtCore import QLineF, QPointF, QRectF, Qt
from PyQt5.QtGui import QColor, QPainter, QPaintEvent, QPen
from PyQt5.QtWidgets import QWidget

from manypose.app.viewer import look
from manypose.app.viewer.figure import with_skull
from manypose.app.viewer.space import BONES, NOBODY, Bodies, Float, Orbit, grid_lines
from manypose.app.viewer.view3d import Steering, paint_labels
from manypose.pose.joints import INDEX, INFERRED, SEEN

_LIMB_M = 0.075
_HEAD_M = 0.21
# How much darker a joint is drawn, in percent, by what is known of it.
_DIM = {SEEN: 100, INFERRED: 116}


class PaintedView(QWidget):
    """Skeletons in a room with a metre grid, far limbs first."""

    def __init__(self) -> None:
        super().__init__()
        self.orbit = Orbit()
        self.bodies = NOBODY
        self.interval_s = 1 / 15
        self._frusta: Float = np.zeros((0, 3))
        Steering(self)
        self.setFocusPolicy(Qt.NoFocus)
        self.setMinimumSize(160, 120)

    def widget(self) -> QWidget:
        """Return the widget to place in a window."""
        return self

    def show_bodies(self, bodies: Bodies, frusta: Float) -> None:
        """Show these people and camera pyramids (line ends) from now on."""
        self.bodies, self._frusta = bodies, frusta
        self.update()

    def refresh(self) -> None:
        """Repaint with the present orbit."""
        self.update()

    def paintEvent(self, _: QPaintEvent) -> None:  # noqa: N802 - Qt's name
        """Draw floor, camera and people."""
        painter = QPainter(self)
        painter.setRenderHint(QPainter.Antialiasing)
        painter.fillRect(self.rect(), QColor(look.BACKGROUND))
        if self.orbit.grid:
            points, opacity = grid_lines(self.orbit.target)
            self._lines(painter, points, QColor(92, 115, 153), opacity * 0.85)
        self._lines(painter, self._frusta, QColor(158, 173, 199), np.ones(len(self._frusta)))
        self._people(painter)
        paint_labels(painter, self.orbit, self.bodies, self.width(), self.height())

    def _lines(self, painter: QPainter, points: Float, colour: QColor, opacity: Float) -> None:
        ends = self.orbit.project(points, self.width(), self.height()).reshape(-1, 2, 3)
        strength = opacity.reshape(-1, 2).mean(1)
        order = np.digitize(strength, [0.25, 0.5, 0.75])
        for level in range(4):  # four strengths instead of a pen for every line
            chosen = ends[(order == level) & np.isfinite(ends).all((1, 2))]
            pen = QColor(colour)
            pen.setAlphaF(min(1.0, 0.15 + 0.25 * level))
            painter.setPen(QPen(pen, 1))
            painter.drawLines([QLineF(a[0], a[1], b[0], b[1]) for a, b in chosen[..., :2].tolist()])

    def _people(self, painter: QPainter) -> None:
        w, h = self.width(), self.height()
        focal = w / 2 / np.tan(np.radians(self.orbit.FOV_DEG / 2))
        strokes = []
        for person, (track_id, joints) in enumerate(zip(self.bodies.ids, self.bodies.joints_m)):
            at = self.orbit.project(joints, w, h)
            for a, b in BONES:
                ends = at[[a, b]]
                if np.isfinite(ends).all():
                    dim = max(_DIM.get(int(s), 180) for s in self.bodies.state[person, [a, b]])
                    strokes.append((float(ends[:, 2].mean()), ends, track_id, dim))
            head = self.orbit.project(with_skull(joints[None])[0, INDEX["head"]], w, h)
            if np.isfinite(head).all():
                strokes.append((float(head[2]) - 0.02, head[None], track_id, 100))
        for depth, ends, track_id, dim in sorted(strokes, key=lambda s: -s[0]):
            colour = QColor(*look.person_colour(track_id)).darker(dim)
            if len(ends) == 1:
                radius = _HEAD_M / 2 * focal / depth
                painter.setPen(QPen(colour.darker(135), 1))
                painter.setBrush(colour)
                x, y = float(ends[0, 0]), float(ends[0, 1])
                painter.drawEllipse(QRectF(x - radius, y - radius, 2 * radius, 2 * radius))
                continue
            a, b = (QPointF(float(x), float(y)) for x, y in ends[:, :2])
            width = max(1.5, _LIMB_M * focal / depth)
            for shade, share in ((colour.darker(150), 1.0), (colour, 0.62)):
                painter.setPen(QPen(shade, width * share, Qt.SolidLine, Qt.RoundCap))
                painter.drawLine(a, b)
