"""What the window shows and what it may ask of those who feed it; no Qt in here."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from manypose.calib.camera import Camera
from manypose.pose.records import Float, TrackedPerson, UInt8


@dataclass(frozen=True, slots=True, eq=False)
class View:
    """The present state of one pane: a picture, its people, and a message over it.

    image is BGR or None (nothing yet, or a run without its video); size_px is (width, height) of
    the picture the people belong to; serial grows with every new state, so that a pane knows
    whether to repaint; time_s is the frame's own time; people may be empty; up is the unit vector
    (3,) in camera axes, if it is known.
    """

    name: str
    serial: int
    image: UInt8 | None = None
    size_px: tuple[int, int] = (640, 480)
    people: tuple[TrackedPerson, ...] = ()
    camera: Camera | None = None
    time_s: float = 0.0
    message: str = ""
    up: Float | None = None


@dataclass(frozen=True, slots=True)
class Status:
    """The status line and how alarming it is: "ok", "amber" or "red"."""

    text: str
    level: str = "ok"


class LiveControls(Protocol):
    """What only a live feed can do."""

    @property
    def smoothing(self) -> Sequence[tuple[str, float]]:
        """Preset names, the smoothest first, with their delay in ms."""

    @property
    def first_smoothing(self) -> float:
        """The level to begin with, as in `set_smoothing`."""

    def source_names(self) -> Sequence[tuple[str, str]]:
        """Return (address, text for people) of what can be chosen; may take a moment."""

    def source(self) -> str:
        """Return the address in use."""

    def choose_source(self, address: str) -> None:
        """Change over to another camera."""

    def set_recording(self, on: bool) -> str:
        """Start or end a recording; returns its folder, or raises ManyposeError."""

    def recorded_s(self) -> float | None:
        """Return for how long it has been recording, None while it is not."""

    def set_smoothing(self, level: float) -> float:
        """Smooth by 0 (least) to 2 (most); returns the added delay in ms."""


class PlayControls(Protocol):
    """What only a recorded run can do."""

    @property
    def length_s(self) -> float:
        """How long the run is."""

    def position_s(self) -> float:
        """Return where the replay is."""

    def seek(self, time_s: float) -> None:
        """Go to the frame at this time."""

    def step(self, frames: int) -> None:
        """Pause and go so many frames on or back."""

    def speed(self) -> float:
        """Return the present speed, 1 = real time."""

    def set_speed(self, speed: float) -> None:
        """Play so many times faster than real time."""


class Feed(Protocol):
    """Where the window's contents come from; called in the window's thread, never blocks."""

    @property
    def title(self) -> str:
        """The window's title."""

    @property
    def live(self) -> LiveControls | None:
        """The controls of a live feed."""

    @property
    def play(self) -> PlayControls | None:
        """The controls of a replay."""

    def views(self) -> Sequence[View]:
        """Return the newest state of every pane."""

    def painted(self, view: View) -> None:
        """Hear that this state is now on the screen."""

    def status(self) -> Status:
        """Return the status line."""

    def paused(self) -> bool:
        """Return whether the contents stand still."""

    def set_paused(self, on: bool) -> None:
        """Stop or go on."""

    def snapshot_folder(self) -> str:
        """Return where snapshots go."""

    def details(self) -> str:
        """Return several lines about network, device and time per stage."""

    def finished(self) -> bool:
        """Return whether the window should close by itself."""

    def close(self) -> None:
        """Stop threads and finish files; called once, after the window has closed."""
