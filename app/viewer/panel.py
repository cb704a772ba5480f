"""The column at the right: camera chooser, recording, smoothing, people."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence

import numpy as np
from PyQt5.QtCore import QRectF, Qt
from PyQt5.QtGui import QColor, QFont, QPainter, QPaintEvent
from PyQt5.QtWidgets import (
    QButtonGroup,
    QComboBox,
    QHBoxLayout,
    QLabel,
    QPushButton,
    QSizePolicy,
    QSlider,
    QVBoxLayout,
    QWidget,
)

from manypose.app.viewer import look
from manypose.app.viewer.feed import Feed, LiveControls, View
from manypose.app.viewer.space import body_height_m
from manypose.pose.joints import ROOT

_STEPS = 100  # slider steps between two presets
_HEIGHT_AFTER = 8  # looks, of some 8 a second, before a person's height is shown


def heading(text: str) -> QLabel:
    """Return a small title of a section."""
    label = QLabel(text.upper())
    label.setObjectName("heading")
    return label


class PeopleList(QWidget):
    """One row for each person: colour, number, distance, body height, joints seen."""

    _ROW = 46

    def __init__(self) -> None:
        super().__init__()
        self._rows: list[tuple[int, float, float, float]] = []
        self._heights: dict[tuple[str, int], deque[float]] = {}
        self.setSizePolicy(QSizePolicy.Expanding, QSizePolicy.Expanding)
        self.setMinimumHeight(90)

    def show_views(self, views: Sequence[View]) -> None:
        """Take over the people of all panes."""
        rows = []
        present = set()
        for view in views:
            for person in view.people:
                key = (view.name, person.track_id)
                present.add(key)
                kept = self._heights.setdefault(key, deque(maxlen=90))
                height = body_height_m(person.joints_m.astype(float))
                if np.isfinite(height):
                    kept.append(height)
                tall = float(np.median(kept)) if len(kept) >= _HEIGHT_AFTER else float("nan")
                away = float(np.linalg.norm(person.joints_m[ROOT]))
                rows.append((person.track_id, away, tall, float((person.confidence > 0).mean())))
        for gone in set(self._heights) - present:
            if len(self._heights) > 200:
                del self._heights[gone]
        self._rows = rows
        self.update()

    def paintEvent(self, _: QPaintEvent) -> None:  # noqa: N802 - Qt's name
        """Draw the rows, or that nobody is there."""
        painter = QPainter(self)
        painter.setRenderHint(QPainter.Antialiasing)
        painter.fillRect(self.rect(), QColor(look.PANEL))
        if not self._rows:
            painter.setPen(QColor(look.FAINT))
            painter.drawText(2, 18, "nobody in view")
            return
        bold, small = QFont(self.font()), QFont(self.font())
        bold.setBold(True)
        bold.setPixelSize(15)
        small.setPixelSize(12)
        room = max(1, self.height() // self._ROW)
        shown = self._rows if len(self._rows) <= room else self._rows[: room - 1]
        for k, (track_id, away, tall, seen) in enumerate(shown):
            y = k * self._ROW
            colour = QColor(*look.person_colour(track_id))
            card = QRectF(0, y, self.width(), self._ROW - 6)
            painter.setPen(Qt.NoPen)
            painter.setBrush(QColor("#1d2533"))
            painter.drawRoundedRect(card, 7, 7)
            painter.setBrush(colour)
            painter.drawRoundedRect(QRectF(0, y, 5, self._ROW - 6), 2.5, 2.5)
            painter.setPen(colour)
            painter.setFont(bold)
            painter.drawText(QRectF(14, y, 44, self._ROW - 6), Qt.AlignVCenter, str(track_id))
            painter.setFont(small)
            painter.setPen(QColor(look.TEXT))
            far = f"{away:.1f} m away" if np.isfinite(away) else "distance unknown"
            painter.drawText(52, y + 17, far)
            painter.setPen(QColor(look.FAINT))
            body = f"{tall:.2f} m tall  " if np.isfinite(tall) else ""
            painter.drawText(52, y + 33, f"{body}{seen:.0%} seen")
        if len(shown) < len(self._rows):
            painter.setPen(QColor(look.FAINT))
            rest = len(self._rows) - len(shown)
            painter.drawText(4, len(shown) * self._ROW + 18, f"and {rest} more")


class LivePanel(QWidget):
    """Camera chooser, record button and smoothing of a live feed."""

    def __init__(self, controls: LiveControls, record: Callable[[], None]) -> None:
        super().__init__()
        self._controls = controls
        box = QVBoxLayout(self)
        box.setContentsMargins(0, 0, 0, 0)
        box.setSpacing(8)
        box.addWidget(heading("Source"))
        self.chooser = _Chooser(controls)
        self.chooser.activated.connect(self._choose)
        box.addWidget(self.chooser)
        self.record = QPushButton("●  Record")
        self.record.setObjectName("record")
        self.record.setCheckable(True)
        self.record.setToolTip("R: video and poses into a session folder")
        self.record.clicked.connect(record)
        box.addWidget(self.record)
        box.addSpacing(8)
        box.addWidget(heading("Smoothing"))
        row = QHBoxLayout()
        row.setSpacing(6)
        self._buttons = QButtonGroup(self)
        top = len(controls.smoothing) - 1
        for k, (name, _) in enumerate(controls.smoothing):
            button = QPushButton(name)
            button.setCheckable(True)
            button.setStyleSheet("padding: 6px 2px;")
            button.setToolTip(f"key {k + 1}")
            button.clicked.connect(lambda _=False, level=top - k: self.smooth(level))
            self._buttons.addButton(button, k)
            row.addWidget(button)
        box.addLayout(row)
        self.slider = QSlider(Qt.Horizontal)
        self.slider.setRange(0, top * _STEPS)
        self.slider.setInvertedAppearance(True)
        self.slider.valueChanged.connect(self._slid)
        box.addWidget(self.slider)
        self._delay = QLabel("")
        self._delay.setObjectName("faint")
        box.addWidget(self._delay)

    def smooth(self, level: float) -> None:
        """Smooth by a level, 0 the least; moves the slider, which does the rest."""
        value = round(level * _STEPS)
        if value == self.slider.value():
            self._slid(value)
        self.slider.setValue(value)

    def preset(self, number: int) -> None:
        """Choose a preset by its place in the row."""
        self.smooth(len(self._controls.smoothing) - 1 - number)

    def _slid(self, value: int) -> None:
        delay_ms = self._controls.set_smoothing(value / _STEPS)
        self._delay.setText(f"adds about {delay_ms:.0f} ms of delay")
        top = len(self._controls.smoothing) - 1
        self._buttons.setExclusive(False)
        for k in range(top + 1):
            self._buttons.button(k).setChecked(value == (top - k) * _STEPS)

    def refresh(self) -> None:
        """Show the time recorded."""
        seconds = self._controls.recorded_s()
        self.record.setChecked(seconds is not None)
        text = "●  Record" if seconds is None else f"■  Stop   {_clock(seconds)}"
        if self.record.text() != text:
            self.record.setText(text)

    def _choose(self, index: int) -> None:
        address = self.chooser.itemData(index)
        if isinstance(address, str) and address != self._controls.source():
            self._controls.choose_source(address)


class _Chooser(QComboBox):
    """Cameras, asked for anew each time the list opens."""

    def __init__(self, controls: LiveControls) -> None:
        super().__init__()
        self._controls = controls
        self.setFocusPolicy(Qt.NoFocus)
        self.setSizeAdjustPolicy(QComboBox.AdjustToMinimumContentsLengthWithIcon)
        self.setMinimumContentsLength(12)
        self._fill()

    def showPopup(self) -> None:  # noqa: N802 - Qt's name
        """Open the list, freshly read."""
        self._fill()
        super().showPopup()

    def _fill(self) -> None:
        self.clear()
        present = self._controls.source()
        names = list(self._controls.source_names())
        if present not in [address for address, _ in names]:
            names.insert(0, (present, present or "none"))
        for address, text in names:
            self.addItem(text, address)
        self.setCurrentIndex([address for address, _ in names].index(present))


class SidePanel(QWidget):
    """All sections in one column."""

    def __init__(self, feed: Feed, record: Callable[[], None], help_line: str) -> None:
        super().__init__()
        self.setObjectName("panel")
        self.setAttribute(Qt.WA_StyledBackground)
        self.setFixedWidth(236)
        box = QVBoxLayout(self)
        box.setContentsMargins(16, 14, 16, 12)
        box.setSpacing(8)
        self.live = None if feed.live is None else LivePanel(feed.live, record)
        if self.live is not None:
            box.addWidget(self.live)
            box.addSpacing(8)
        self._count = heading("People")
        box.addWidget(self._count)
        self.people = PeopleList()
        box.addWidget(self.people, 1)
        keys = QLabel(help_line)
        keys.setObjectName("faint")
        keys.setWordWrap(True)
        box.addWidget(keys)

    def show_views(self, views: Sequence[View]) -> None:
        """Take over the people of all panes."""
        count = sum(len(view.people) for view in views)
        self._count.setText(f"PEOPLE   {count}" if count else "PEOPLE")
        self.people.show_views(views)
        if self.live is not None:
            self.live.refresh()


def _clock(seconds: float) -> str:
    minutes, rest = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes:02}:{rest:02}"
