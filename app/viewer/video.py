"""The video pane: the picture and the 2D skeletons over it, by QWidget.paintEvent.

A plain widget, because it is many times faster than pyqtgraph's image items.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import cv2
import numpy as np
from PyQt5.QtCore import QLineF, QPointF, QRectF, Qt
from PyQt5.QtGui import QColor, QFont, QFontMetricsF, QImage, QPainter, QPaintEvent, QPen
from PyQt5.QtWidgets import QSizePolicy, QWidget

from manypose.app.viewer import look
from manypose.app.viewer.feed import View
from manypose.pose.joints import INDEX_2D, LIMBS, ROOT
from manypose.pose.records import TrackedPerson, UInt8

_CONFIDENT = 0.3
# Ear-shoulder limbs serve the grouping only; drawn, they would be whiskers.
_DRAWN = tuple(
    (a, b)
    for a, b in LIMBS
    if {a, b} not in ({INDEX_2D["l_ear"], INDEX_2D["l_shoulder"]},
                      {INDEX_2D["r_ear"], INDEX_2D["r_shoulder"]})
)  # fmt: skip
_FACE = {INDEX_2D[n] for n in ("nose", "l_eye", "r_eye", "l_ear", "r_ear")}


class VideoPane(QWidget):
    """Shows one camera or video with its people."""

    def __init__(self, painted: Callable[[View], None]) -> None:
        super().__init__()
        self._painted = painted
        self._view: View | None = None
        self._told = -1
        self._scaled: tuple[int, int, int, bool] | None = None
        self._picture: QImage | None = None
        self.mirror = False
        self.overlay = True
        self.named = False
        self._tags: list[QRectF] = []
        self.setMinimumSize(200, 140)
        self.setSizePolicy(QSizePolicy.Expanding, QSizePolicy.Expanding)
        self.setAttribute(Qt.WA_OpaquePaintEvent)

    def show_view(self, view: View) -> None:
        """Show this state; repaints if it is new."""
        if self._view is None or view.serial != self._view.serial:
            self._view = view
            self.update()

    def paintEvent(self, _: QPaintEvent) -> None:  # noqa: N802 - Qt's name
        """Draw picture, people and message."""
        painter = QPainter(self)
        painter.fillRect(self.rect(), QColor(look.BACKGROUND))
        view = self._view
        if view is None:
            return
        w, h = view.size_px
        scale = min(self.width() / w, self.height() / h)
        area = QRectF(0, 0, w * scale, h * scale)
        area.moveCenter(QRectF(self.rect()).center())
        if view.image is not None:
            picture = self._fitted(view, round(area.width()), round(area.height()))
            painter.drawImage(area, picture)
        elif not view.message:
            painter.setPen(QPen(QColor(look.LINE), 1))
            painter.drawRect(area)
        painter.setRenderHint(QPainter.Antialiasing)
        if self.overlay:
            painter.setClipRect(area)
            self._tags = []
            for person in view.people:
                self._person(painter, person, area, scale, w)
            painter.setClipping(False)
        if self.named:
            self._name(painter, view.name, area)
        if view.message:
            self._message(painter, view.message)
        if view.serial != self._told:
            self._told = view.serial
            self._painted(view)

    def _fitted(self, view: View, width: int, height: int) -> QImage:
        """Return the picture at the size of the screen, kept for repaints of the same state."""
        assert view.image is not None
        ratio = self.devicePixelRatioF()
        width, height = max(1, round(width * ratio)), max(1, round(height * ratio))
        key = (view.serial, width, height, self.mirror)
        if self._scaled == key and self._picture is not None:
            return self._picture
        image: UInt8 = view.image
        if image.shape[1] != width or image.shape[0] != height:
            shrinks = image.shape[1] > 2 * width
            how = cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR
            image = np.asarray(cv2.resize(image, (width, height), interpolation=how), np.uint8)
        if self.mirror:
            image = np.asarray(cv2.flip(image, 1), np.uint8)
        image = np.ascontiguousarray(image)
        wrapped = QImage(image.data, width, height, 3 * width, QImage.Format_BGR888)
        # a copy in the screen's own format: it outlives the array and paints fast
        self._picture = wrapped.convertToFormat(QImage.Format_RGB32)
        self._scaled = key
        return self._picture

    def _person(
        self, painter: QPainter, person: TrackedPerson, area: QRectF, scale: float, width: int
    ) -> None:
        red, green, blue = look.person_colour(person.track_id)
        px = person.joints_px.astype(float)
        x = (width - 1 - px[:, 0]) if self.mirror else px[:, 0]
        at = np.column_stack([area.x() + (x + 0.5) * scale, area.y() + (px[:, 1] + 0.5) * scale])
        known = np.isfinite(at).all(1)
        if not known.any():
            return
        size = math.sqrt(max(float(person.box_px[3]), 1.0) * scale / 300)
        thick = float(np.clip(5.0 * size, 2.0, 7.0))
        shadow: list[QLineF] = []
        lines: list[QLineF] = []
        weak: list[QLineF] = []
        face: list[QLineF] = []
        for a, b in _DRAWN:
            if not (known[a] and known[b]):
                continue
            line = QLineF(QPointF(*at[a].tolist()), QPointF(*at[b].tolist()))
            sure = min(person.confidence[a], person.confidence[b]) >= _CONFIDENT
            group = face if a in _FACE or b in _FACE else lines if sure else weak
            group.append(line)
            if group is not face:
                shadow.append(line)
        cap = Qt.RoundCap
        painter.setPen(QPen(QColor(0, 0, 0, 110), thick + 2.5, Qt.SolidLine, cap))
        painter.drawLines(shadow)
        painter.setPen(QPen(QColor(red, green, blue, 235), thick, Qt.SolidLine, cap))
        painter.drawLines(lines)
        painter.setPen(QPen(QColor(red, green, blue, 130), thick * 0.7, Qt.DotLine, cap))
        painter.drawLines(weak)
        painter.setPen(QPen(QColor(red, green, blue, 170), max(1.2, thick * 0.35), cap=cap))
        painter.drawLines(face)
        painter.setPen(QPen(QColor(0, 0, 0, 150), 1))
        painter.setBrush(QColor(255, 255, 255, 235))
        for joint in np.flatnonzero(known):
            radius = thick * (0.35 if joint in _FACE else 0.62)
            painter.drawEllipse(QPointF(*at[joint].tolist()), radius, radius)
        painter.setBrush(Qt.NoBrush)
        top = at[known][:, 1].min()
        middle = float(at[known][at[known][:, 1].argmin(), 0])
        self._tag(painter, person, area, QPointF(middle, float(top) - 3.5 * thick - 10))

    def _tag(self, painter: QPainter, person: TrackedPerson, area: QRectF, at: QPointF) -> None:
        """Draw the number and distance of a person in a rounded box."""
        root = person.joints_m[ROOT]
        text = str(person.track_id)
        if np.isfinite(root).all():
            text += f"   {float(np.linalg.norm(root)):.1f} m"
        font = QFont(self.font())
        font.setPixelSize(12)
        font.setBold(True)
        painter.setFont(font)
        metrics = QFontMetricsF(font)
        box = QRectF(0, 0, metrics.horizontalAdvance(text) + 16, 20)
        box.moveCenter(at)
        box.moveLeft(min(max(box.left(), area.left() + 4), area.right() - box.width() - 4))
        box.moveTop(min(max(box.top(), area.top() + 4), area.bottom() - 24))
        for _ in range(6):  # above the tags already there, or beside them at the top
            under = [tag for tag in self._tags if tag.intersects(box)]
            if not under:
                break
            above = min(tag.top() for tag in under) - 22
            if above >= area.top():
                box.moveTop(above)
            else:
                box.moveLeft(max(tag.right() for tag in under) + 2)
        self._tags.append(box)
        self._label(painter, box, text, QColor(*look.person_colour(person.track_id)))

    def _name(self, painter: QPainter, name: str, area: QRectF) -> None:
        """Draw the name of the source at the foot of the picture, where few heads are."""
        font = QFont(self.font())
        font.setPixelSize(12)
        painter.setFont(font)
        metrics = QFontMetricsF(font)
        text = metrics.elidedText(name, Qt.ElideMiddle, area.width() - 40)
        box = QRectF(0, 0, metrics.horizontalAdvance(text) + 18, metrics.height() + 6)
        box.moveBottomLeft(area.bottomLeft() + QPointF(8, -8))
        self._label(painter, box, text, QColor(look.TEXT))

    @staticmethod
    def _label(painter: QPainter, box: QRectF, text: str, colour: QColor) -> None:
        painter.setPen(Qt.NoPen)
        painter.setBrush(QColor(14, 18, 25, 205))
        painter.drawRoundedRect(box, 10, 10)
        painter.setPen(colour)
        painter.drawText(box, Qt.AlignCenter, text)
        painter.setBrush(Qt.NoBrush)

    def _message(self, painter: QPainter, text: str) -> None:
        """Draw a message in the middle of the lower third."""
        font = QFont(self.font())
        font.setPixelSize(15)
        painter.setFont(font)
        room = QRectF(self.rect()).adjusted(30, 20, -30, -20)
        flags = int(Qt.AlignCenter | Qt.TextWordWrap)
        box = painter.boundingRect(room, flags, text).adjusted(-18, -12, 18, 12)
        if self._view is not None and self._view.image is not None:
            box.moveBottom(self.height() - 24.0)
        painter.setPen(QPen(QColor(look.LINE), 1))
        painter.setBrush(QColor(14, 18, 25, 225))
        painter.drawRoundedRect(box, 10, 10)
        painter.setPen(QColor(look.TEXT))
        painter.drawText(box, flags, text)
        painter.setBrush(Qt.NoBrush)
