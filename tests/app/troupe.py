"""Generated people who walk, and real lanes that carry them: what the window is tested with.

Run as a script, it opens a window, plays a case and prints what it saw as JSON.
"""

from __future__ import annotations

import json
import logging
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from manypose.app.config import Config
from manypose.app.lanes import Lanes, Playback
from manypose.app.live_feed import LiveFeed
from manypose.app.pipeline import Engine
from manypose.app.sources import Counts, LiveSource, SourceInfo
from manypose.calib.camera import Camera
from manypose.pose.detector import Detector
from manypose.pose.estimator import FollowerConfig
from manypose.pose.joints import INDEX, JOINTS, JOINTS_2D, ROOT
from manypose.pose.records import Found2D, Frame, Person2D, Person3D

WIDTH, HEIGHT = 640, 360
CAMERA = Camera.from_fov(WIDTH, HEIGHT, 60)
# A standing body: x to the picture's right, y down from the pelvis, facing the camera.
_STANDING = {
    "head_top": (0, -0.78, 0), "neck": (0, -0.52, 0), "r_shoulder": (-0.18, -0.5, 0),
    "r_elbow": (-0.24, -0.22, 0), "r_wrist": (-0.26, 0.02, -0.03), "l_shoulder": (0.18, -0.5, 0),
    "l_elbow": (0.24, -0.22, 0), "l_wrist": (0.26, 0.02, -0.03), "r_hip": (-0.1, 0.02, 0),
    "r_knee": (-0.1, 0.45, 0), "r_ankle": (-0.1, 0.86, 0), "l_hip": (0.1, 0.02, 0),
    "l_knee": (0.1, 0.45, 0), "l_ankle": (0.1, 0.86, 0), "pelvis": (0, 0, 0),
    "spine": (0, -0.25, 0), "head": (0, -0.64, 0), "r_hand": (-0.27, 0.1, -0.04),
    "l_hand": (0.27, 0.1, -0.04), "r_foot": (-0.1, 0.92, -0.14), "l_foot": (0.1, 0.92, -0.14),
}  # fmt: skip
_BODY = np.array([_STANDING[name] for name in JOINTS], float)


def walker(number: int, time_s: float) -> np.ndarray:
    """Return joints (J, 3) in the camera frame of one person who walks to and fro."""
    joints = _BODY.copy()
    swing = 0.25 * np.sin(5 * time_s + number)
    for side, sign in (("l", 1), ("r", -1)):
        for name, share in (("knee", 0.5), ("ankle", 1.0), ("foot", 1.0), ("wrist", -1.0)):
            joints[INDEX[f"{side}_{name}"], 2] += sign * swing * share
    place = [1.3 * (number - 1) + 0.4 * np.sin(0.8 * time_s), 0.3, 3.5 + 0.7 * number]
    return joints + np.array(place)


def seen(joints: np.ndarray) -> Person2D:
    """Return what a perfect front end sees of a body."""
    names = ["head" if "eye" in n or "ear" in n or n == "nose" else n for n in JOINTS_2D]
    px = CAMERA.camera_to_image(joints[[INDEX[n] for n in names]])
    px = px + np.linspace(-3, 3, len(px))[:, None]
    return Person2D(px.astype(np.float32), np.full(len(px), 0.9, np.float32), 0.9)


def engine(people: int, cost_s: float = 0.0) -> Engine:
    """Return an engine that knows where the generated people are; one call takes `cost_s`."""
    known: dict[int, tuple[Person2D, np.ndarray]] = {}

    def front_end(frames: Sequence[Frame]) -> list[Found2D]:
        time.sleep(cost_s)
        known.clear()
        found = []
        for frame in frames:
            bodies = [walker(k, frame.index / 30) for k in range(people)]
            mine = [seen(joints) for joints in bodies]
            known.update({id(p): (p, joints) for p, joints in zip(mine, bodies)})
            found.append(Found2D(tuple(mine), {"network": cost_s * 1e3}))
        return found

    def lift(persons: Sequence[Person2D], _: Camera, up: object = None) -> list[Person3D]:
        out = []
        for person in persons:
            joints = known[id(person)][1]
            root = joints[ROOT]
            out.append(Person3D(person, joints - root, np.full(len(JOINTS), 0.03), root, 0.1))
        return out

    facts = {"model": "generated", "device": "cpu", "precision": "exact"}
    return Engine(Detector(front_end, lift), FollowerConfig(), facts)


def camera(fps: float = 30.0, width: int = WIDTH, height: int = HEIGHT, count: int = 10**9) -> Any:
    """Return an opener of a live source that gives pictures at this rate."""

    def frames(live: LiveSource) -> Iterator[Frame]:
        picture = np.zeros((height, width, 3), np.uint8)
        picture[..., 0] = np.linspace(40, 160, width, dtype=np.uint8)
        picture[..., 1] = np.linspace(60, 120, height, dtype=np.uint8)[:, None]
        start = time.perf_counter()
        for index in range(count):
            if live.stopping.wait(max(0.0, start + index / fps - time.perf_counter())):
                return
            image = picture.copy()
            cv2.circle(image, (index * 7 % width, height // 8), 12, (230, 230, 230), -1)
            yield Frame(image, time.perf_counter(), index, CAMERA)

    def opener(address: str, _: Config) -> LiveSource:
        return LiveSource(SourceInfo("camera", address, address), frames, Counts())

    return opener


def lanes(
    people: int = 3, cost_s: float = 0.0, names: Sequence[str] = ("camera:0",), **k: Any
) -> Lanes:
    """Return running lanes with generated people."""
    return Lanes(
        names, Config(), lambda _: engine(people, cost_s), playback=Playback(), opener=camera(**k)
    )


def coloured(image: np.ndarray, ids: Sequence[int]) -> int:
    """Return how many pixels (H, W, 3 RGB) have nearly the hue of one of these people."""
    from manypose.app.viewer.look import person_colour

    hsv = cv2.cvtColor(np.ascontiguousarray(image), cv2.COLOR_RGB2HSV).astype(int)
    count = 0
    for track_id in ids:
        hue = int(cv2.cvtColor(np.uint8([[person_colour(track_id)]]), cv2.COLOR_RGB2HSV)[0, 0, 0])
        near = np.abs((hsv[..., 0] - hue + 90) % 180 - 90) <= 6
        count += int((near & (hsv[..., 1] > 90) & (hsv[..., 2] > 70)).sum())
    return count


def pixels(widget: Any) -> np.ndarray:
    """Return a widget's picture as RGB (H, W, 3)."""
    from PyQt5.QtGui import QImage

    image = widget.grab().toImage().convertToFormat(QImage.Format_RGB888)
    data = image.bits().asarray(image.bytesPerLine() * image.height())
    rows = np.frombuffer(bytes(data), np.uint8).reshape(image.height(), image.bytesPerLine())
    return rows[:, : 3 * image.width()].reshape(image.height(), image.width(), 3)


def main(case: str, folder: Path) -> int:
    """Open the window, do what the case says, print what was seen."""
    from manypose.app.viewer import application

    messages: list[str] = []
    handler = logging.Handler()
    handler.emit = lambda record: messages.append(record.getMessage())  # type: ignore[method-assign]
    logging.getLogger("manypose").addHandler(handler)
    app = application()
    from PyQt5.QtCore import Qt
    from PyQt5.QtTest import QTest

    from manypose.app.viewer.window import Window, show

    names = ("left", "right") if case == "two" else ("camera:0",)
    feed = LiveFeed(lanes(names=names), {})
    if case == "signal":
        sys.stdout.write("ready\n")
        sys.stdout.flush()
        return show(feed)
    window = Window(feed)
    window.resize(1100, 600)
    window.show()
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline and not all(v.people for v in feed.views()):
        QTest.qWait(30)
    QTest.qWait(400)
    report: dict[str, Any] = {"platform": app.platformName(), "view": type(window.space).__name__}
    people = sorted({p.track_id for v in feed.views() for p in v.people})
    report["people"] = len(people)
    report["panes"] = len(window.panes)
    report["video"] = [coloured(pixels(pane), people) for pane in window.panes]
    report["picture"] = [int(pixels(pane).std(axis=(0, 1)).max()) for pane in window.panes]
    report["space"] = coloured(pixels(window.space.widget()), people)
    report["status"] = window.status.text()
    window.grab().save(str(folder / "window.png"))
    if case == "keys":
        report |= _press_keys(window, feed, folder, QTest, Qt)
    QTest.keyClick(window, Qt.Key_Escape)
    report["closed"] = not window.isVisible()
    report["messages"] = messages
    sys.stdout.write(json.dumps(report) + "\n")
    return 0


def _drag(widget: Any, start: Any, end: Any) -> None:
    from PyQt5.QtCore import QEvent, QPointF, Qt
    from PyQt5.QtGui import QMouseEvent
    from PyQt5.QtWidgets import QApplication

    for kind, at in ((QEvent.MouseButtonPress, start), (QEvent.MouseMove, end)):
        event = QMouseEvent(kind, QPointF(at), Qt.LeftButton, Qt.LeftButton, Qt.NoModifier)
        QApplication.sendEvent(widget, event)


def _shown(pane: Any) -> Any:
    """Return the pixels of a pane."""
    picture = pane.grab().toImage()
    bits = picture.constBits()
    bits.setsize(picture.sizeInBytes())
    return np.frombuffer(bits, np.uint8).copy()


def _press_keys(window: Any, feed: LiveFeed, folder: Path, QTest: Any, Qt: Any) -> dict[str, Any]:
    def press(key: Any, wait_ms: int = 60) -> None:
        QTest.keyClick(window, key)
        QTest.qWait(wait_ms)

    seen: dict[str, Any] = {}
    space = window.space
    press(Qt.Key_V)
    seen["video only"] = not space.widget().isVisible() and window.panes[0].isVisible()
    press(Qt.Key_V)
    seen["3D only"] = space.widget().isVisible() and not window.panes[0].isVisible()
    press(Qt.Key_V)
    seen["both"] = space.widget().isVisible() and window.panes[0].isVisible()
    press(Qt.Key_M)
    seen["mirror"] = space.orbit.mirror and window.panes[0].mirror
    press(Qt.Key_M)
    press(Qt.Key_G)
    seen["no grid"] = not space.orbit.grid
    press(Qt.Key_F)
    seen["follow"] = space.orbit.follow
    delays = []
    for key in (Qt.Key_1, Qt.Key_2, Qt.Key_3):
        press(key)
        delays.append(window.panel.live.slider.value())
    seen["smoothing falls"] = delays == sorted(delays, reverse=True) and len(set(delays)) == 3
    press(Qt.Key_B)
    seen["details"] = "network" in window._sheet.text()
    press(Qt.Key_B)
    QTest.keyClicks(window, "?")
    seen["keys"] = "snapshot" in window._sheet.text() and window._sheet.isVisible()
    QTest.keyClicks(window, "?")
    press(Qt.Key_Space)
    before = feed.views()[0].serial
    QTest.qWait(200)
    seen["pause"] = feed.paused() and feed.views()[0].serial == before
    held = feed.views()[0]
    shown = _shown(window.panes[0])
    kept = [held.image.copy(), *(p.joints_px.copy() for p in held.people)]
    press(Qt.Key_M)
    seen["mirrored is shown"] = not np.array_equal(_shown(window.panes[0]), shown)
    now = feed.views()[0]
    seen["mirrored is not data"] = all(
        np.array_equal(a, b, equal_nan=True)
        for a, b in zip(kept, [now.image, *(p.joints_px for p in now.people)], strict=True)
    )
    press(Qt.Key_M)
    press(Qt.Key_Space, 200)
    seen["goes on"] = feed.views()[0].serial > before
    press(Qt.Key_R, 900)
    seen["recording"] = "rec 00:0" in window.status.text()
    press(Qt.Key_R)
    seen["not recording"] = feed.recorded_s() is None
    azimuth = space.orbit.azimuth_deg
    middle = space.widget().rect().center()
    _drag(space.widget(), middle, middle * 1.2)
    seen["turned"] = space.orbit.azimuth_deg != azimuth
    path = window.snapshot()
    seen["snapshot"] = path is not None and path.stat().st_size > 10_000
    return {"keys": seen}


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], Path(sys.argv[2])))
