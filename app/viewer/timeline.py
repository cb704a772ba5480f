"""The bar below a replay: play and pause, steps, a slider over the whole run, the speed."""

from __future__ import annotations

from collections.abc import Callable

from PyQt5.QtCore import Qt
from PyQt5.QtWidgets import QComboBox, QHBoxLayout, QLabel, QPushButton, QSlider, QWidget

from manypose.app.viewer.feed import PlayControls

SPEEDS = (0.1, 0.25, 0.5, 1.0, 2.0, 4.0)
_TICKS_PER_S = 1000


class Timeline(QWidget):
    """Controls of a replay."""

    def __init__(self, controls: PlayControls, pause: Callable[[], None]) -> None:
        super().__init__()
        self.setObjectName("panel")
        self.setAttribute(Qt.WA_StyledBackground)
        self._controls = controls
        row = QHBoxLayout(self)
        row.setContentsMargins(12, 8, 12, 8)
        row.setSpacing(8)
        self._play = QPushButton("❚❚")
        self._play.setFixedWidth(44)
        self._play.clicked.connect(pause)
        back, ahead = QPushButton("◀|"), QPushButton("|▶")
        for button, frames, tip in ((back, -1, "one frame back"), (ahead, 1, "one frame on")):
            button.setFixedWidth(40)
            button.setToolTip(tip)
            button.clicked.connect(lambda _=False, n=frames: controls.step(n))
        self.slider = QSlider(Qt.Horizontal)
        self.slider.setRange(0, max(1, round(controls.length_s * _TICKS_PER_S)))
        self.slider.sliderMoved.connect(lambda value: controls.seek(value / _TICKS_PER_S))
        self.slider.actionTriggered.connect(self._clicked)
        self._clock = QLabel()
        self._speed = QComboBox()
        self._speed.setToolTip("speed")
        for speed in SPEEDS:
            self._speed.addItem(f"{speed:g} x", speed)
        self._speed.setCurrentIndex(SPEEDS.index(1.0))
        self._speed.activated.connect(lambda k: controls.set_speed(SPEEDS[k]))
        for widget in (self._play, back, ahead, self.slider, self._clock, self._speed):
            widget.setFocusPolicy(Qt.NoFocus)
            row.addWidget(widget, 1 if widget is self.slider else 0)

    def refresh(self, paused: bool) -> None:
        """Show where the replay is."""
        self._play.setText("▶" if paused else "❚❚")
        position = self._controls.position_s()
        if not self.slider.isSliderDown():
            self.slider.setValue(round(position * _TICKS_PER_S))
        self._clock.setText(f"{position:6.2f} / {self._controls.length_s:.2f} s")
        speed = self._controls.speed()
        if speed in SPEEDS:
            self._speed.setCurrentIndex(SPEEDS.index(speed))

    def faster(self, by: int) -> None:
        """Choose the next speed up (1) or down (-1)."""
        nearest = min(range(len(SPEEDS)), key=lambda k: abs(SPEEDS[k] - self._controls.speed()))
        self._controls.set_speed(SPEEDS[max(0, min(len(SPEEDS) - 1, nearest + by))])

    def _clicked(self, _: int) -> None:
        """Go where a click beside the handle or a key moved the slider."""
        self._controls.seek(self.slider.sliderPosition() / _TICKS_PER_S)
