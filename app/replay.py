"""A recorded run played again: a clock that can pause, jump and change its speed, and pictures.

Pictures are decoded in a thread of their own, the newest wish wins; people are shown with the
picture they belong to, and without pictures at once.
"""

from __future__ import annotations

import contextlib
import logging
import threading
import time
from collections.abc import Callable, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np

from manypose.app.containers import open_container
from manypose.app.formats.reading import Run
from manypose.app.handover import Closed, Latest
from manypose.app.pictures import read_picture
from manypose.app.sources import turned
from manypose.app.viewer.feed import Status, View
from manypose.calib.camera import Camera
from manypose.errors import SourceError
from manypose.pose.angles import rotations_from_joints
from manypose.pose.records import Float, Frame, FrameResult, TrackedPerson, UInt8

log = logging.getLogger(__name__)

_AHEAD_S = 1.5  # farther than this, jumping is cheaper than decoding
_HALF_TICK_S = 0.004
_AT_END_S = 0.03  # how long the last frame lasts
_NO_PICTURE = np.zeros((1, 1, 3), np.uint8)


class Film:
    """The pictures of a video file by time, in either direction."""

    def __init__(self, path: Path, start_s: float, quarter_turns: int) -> None:
        self._container = open_container(path)
        self._stream = self._container.streams.video[0]
        self._stream.thread_type = "AUTO"
        self._start_s = start_s
        self._turns = quarter_turns
        self._frames = self._container.decode(self._stream)
        self._at_s = -1.0
        self._image: UInt8 | None = None

    def at(self, time_s: float, _index: int) -> UInt8 | None:
        """Return the picture shown at this time of the run, None behind the end."""
        if time_s < self._at_s - _HALF_TICK_S or time_s > self._at_s + _AHEAD_S:
            wanted = time_s + self._start_s
            # a file without an index is decoded from where it stands
            with contextlib.suppress(av.error.FFmpegError):
                base = self._stream.time_base or Fraction(1, 1000)
                self._container.seek(int(wanted / base), stream=self._stream, backward=True)
                self._frames = self._container.decode(self._stream)
                self._at_s = -1.0
        while self._at_s < time_s - _HALF_TICK_S:
            try:
                frame = next(self._frames)
            except (StopIteration, av.error.FFmpegError):
                break
            self._at_s = (frame.time or 0.0) - self._start_s
            if self._at_s >= time_s - _HALF_TICK_S:
                image = np.asarray(frame.to_ndarray(format="bgr24"), np.uint8)
                self._image = turned(image, self._turns)
        return self._image

    def close(self) -> None:
        """Close the file."""
        self._container.close()


class Album:
    """The pictures of a folder by their place in the run's list of files."""

    def __init__(self, paths: Sequence[Path], quarter_turns: int) -> None:
        self._paths = paths
        self._turns = quarter_turns

    def at(self, _time_s: float, index: int) -> UInt8 | None:
        """Return the picture of this frame index."""
        if not 0 <= index < len(self._paths):
            return None
        image = read_picture(self._paths[index])
        return None if image is None else turned(image, self._turns)

    def close(self) -> None:
        """Nothing stays open."""


def pictures_of(run: Run) -> Film | Album | None:
    """Return the pictures of a run, None where its source cannot be read (any more)."""
    source: dict[str, Any] = run.meta.get("source") or {}
    video = run.meta.get("video")
    own = run.folder / video if isinstance(video, str) else None
    if own is not None and own.is_file():
        return _film(own, 0.0, 0)
    address = source.get("address")
    if not isinstance(address, str):
        return None
    turns = -int(_number(source.get("rotation_deg")) // 90) % 4
    for path in (Path(address), run.folder / address):
        if path.is_dir():
            names = run.meta.get("files") or source.get("files") or ()
            return Album([path / str(name) for name in names], turns)
        if path.is_file() and source.get("kind") == "images":
            return Album([path], turns)
        if path.is_file():
            return _film(path, _number(source.get("start_s")), turns)
    return None


def _number(value: Any) -> float:
    """Return a number of a meta file, 0 where it has none."""
    known = isinstance(value, int | float) and abs(value) < 1e9  # and not NaN
    return float(value) if known else 0.0


def _film(path: Path, start_s: float, turns: int) -> Film | None:
    try:
        return Film(path, start_s, turns)
    except SourceError as error:
        log.warning("%s The run is shown without pictures.", error)
        return None


class Replay:
    """Feeds the window from a run (feed.Feed, feed.PlayControls)."""

    live = None

    def __init__(
        self,
        run: Run,
        *,
        speed: float = 1.0,
        loop: bool = False,
        pictures: bool = True,
        sinks: Sequence[Callable[[FrameResult], None]] = (),
    ) -> None:
        """Begin to play; every sink is handed each frame that is shown, without its picture."""
        self.title = f"manypose play: {run.folder.name}"
        self._run = run
        self._camera = _camera(run.meta)
        self._times = run.t - run.t[0] if len(run.t) else np.zeros(1)
        self.length_s = float(self._times[-1])
        self._ends = np.searchsorted(run.row_frame, np.arange(len(run.t) + 1))
        self._speed, self._loop = speed, loop
        self._base_s, self._base_at = 0.0, time.perf_counter()
        self._paused = False
        self._up = run.up
        self._shown = -1
        self._asked = -1
        self._sinks = tuple(sinks)
        self._pictures = pictures_of(run) if pictures else None
        self._wishes: Latest[int] = Latest()
        self._ready: Latest[tuple[int, UInt8 | None]] = Latest()
        message = "" if self._pictures else "this run's pictures are not here: 3D only"
        self._view = View(run.folder.name, 0, None, self._size(), camera=self._camera)
        self._note = message
        self._thread = threading.Thread(target=self._read, name="pictures", daemon=True)
        if self._pictures is not None:
            self._thread.start()

    @property
    def play(self) -> Replay:
        """The controls: the feed itself."""
        return self

    def _size(self) -> tuple[int, int]:
        if self._camera is not None:
            return self._camera.width, self._camera.height
        source = self._run.meta.get("source") or {}
        width, height = (_number(source.get(side)) for side in ("width", "height"))
        return (int(width), int(height)) if min(width, height) >= 1 else (640, 480)

    # the clock

    def position_s(self) -> float:
        """Return where the replay is; it stops (or begins again) at the end."""
        if self._paused:
            return self._base_s
        position = self._base_s + (time.perf_counter() - self._base_at) * self._speed
        if position > self.length_s + _AT_END_S:
            if self._loop:
                self._place(0.0)
                return 0.0
            self._place(self.length_s)
            self._paused = True
            return self.length_s
        return position

    def _place(self, position_s: float) -> None:
        self._base_s = float(np.clip(position_s, 0.0, self.length_s))
        self._base_at = time.perf_counter()

    def seek(self, time_s: float) -> None:
        """Go to the frame at this time."""
        self._place(time_s)

    def step(self, frames: int) -> None:
        """Pause and go so many frames on or back."""
        index = int(np.clip(self._index() + frames, 0, len(self._times) - 1))
        self._paused = True
        self._place(float(self._times[index]))

    def until_next_s(self) -> float:
        """Return how long the frame that is shown lasts, seconds of the clock on the wall."""
        position = self.position_s()
        after = np.searchsorted(self._times, position + 1e-6, "right")
        ends = self.length_s + _AT_END_S if after >= len(self._times) else self._times[after]
        return max(float(ends) - position, 0.0) / self._speed

    def speed(self) -> float:
        """Return the present speed, 1 = real time."""
        return self._speed

    def set_speed(self, speed: float) -> None:
        """Play so many times faster than real time."""
        self._place(self.position_s())
        self._speed = speed

    def paused(self) -> bool:
        """Return whether the replay stands still."""
        return self._paused

    def set_paused(self, on: bool) -> None:
        """Stop or go on; at the end, begin again."""
        position = self.position_s()
        if not on and position >= self.length_s:
            position = 0.0
        self._place(position)
        self._paused = on

    def _index(self) -> int:
        at = np.searchsorted(self._times, self.position_s() + 1e-6, "right") - 1
        return int(np.clip(at, 0, len(self._times) - 1))

    # what the window shows

    def views(self) -> Sequence[View]:
        """Return the frame at the present position, or the newest whose picture is decoded."""
        if not len(self._run):
            return [self._view]
        index = self._index()
        if self._pictures is None:
            if index != self._shown:
                self._take(index, None)
            return [self._view]
        if index != self._asked:
            self._asked = index
            with contextlib.suppress(Closed):
                self._wishes.put(index)
        with contextlib.suppress(Closed):
            if (got := self._ready.get(0.0)) is not None:
                self._take(*got)
        return [self._view]

    def _take(self, index: int, image: UInt8 | None) -> None:
        self._shown = index
        size = self._size() if image is None else (image.shape[1], image.shape[0])
        self._view = View(
            self._run.folder.name, self._view.serial + 1, image, size, self._people(index),
            self._camera, float(self._times[index]), up=self._up,
        )  # fmt: skip
        if self._sinks:
            camera = self._camera or Camera.from_fov(*size)
            number = int(self._run.frame[index])
            frame = Frame(_NO_PICTURE, self._view.time_s, number, camera)
            result = FrameResult(frame, self._view.people, up=self._up)
            for sink in self._sinks:
                sink(result)

    def _people(self, index: int) -> tuple[TrackedPerson, ...]:
        run = self._run
        return tuple(
            TrackedPerson(
                int(run.id[r]), float(run.score[r]), run.kp2d[r, :, :2], run.kp2d[r, :, 2],
                run.kp3d[r], run.state[r].astype(np.uint8), run.box[r], self._rotations(r),
            )
            for r in range(self._ends[index], self._ends[index + 1])
        )  # fmt: skip

    def _rotations(self, row: int) -> Float | None:
        """Return the local rotations of a row for whoever is sent them; sessions store none."""
        if not self._sinks:
            return None
        if self._run.quat is not None:
            stored = np.asarray(self._run.quat[row], float)
            if np.isfinite(stored).all():
                return stored
        joints = self._run.kp3d[row].astype(float)
        return rotations_from_joints(joints[None])[0] if np.isfinite(joints).all() else None

    def _read(self) -> None:
        assert self._pictures is not None
        try:
            for index in self._wishes:
                image = self._pictures.at(float(self._times[index]), int(self._run.frame[index]))
                self._ready.put((index, image))
        except Closed:
            pass
        finally:
            self._pictures.close()

    def painted(self, view: View) -> None:
        """Nothing is measured in a replay."""

    def status(self) -> Status:
        """Return where the replay is and what is in the frame."""
        index = max(self._shown, 0)
        count = len(self._view.people)
        parts = [
            "paused" if self._paused else f"{self._speed:g} x",
            f"frame {index + 1} of {len(self._run)}",
            f"{count} {'person' if count == 1 else 'people'}",
            str(self._run.folder),
        ]
        if self._note:
            parts.append(self._note)
        return Status(" | ".join(parts))

    def snapshot_folder(self) -> str:
        """Return where snapshots go: into the run's folder."""
        return str(self._run.folder)

    def details(self) -> str:
        """Return what the run says of itself."""
        meta = self._run.meta
        rows = [f"folder       {self._run.folder}", f"frames       {len(self._run)}"]
        rows.append(f"identities   {len(np.unique(self._run.id))}")
        for name in ("model", "engine"):
            facts = meta.get(name)
            if isinstance(facts, dict):
                rows += ["", *(f"{str(k)[:12]:<12} {str(v)[:60]}" for k, v in facts.items())]
                break
        camera = meta.get("camera")
        if isinstance(camera, dict):
            rows += ["", f"camera       {camera.get('source', 'unknown')}"]
        return "\n".join(rows)

    def finished(self) -> bool:
        """A replay stays open until it is closed."""
        return False

    def close(self) -> None:
        """Stop the thread that decodes."""
        self._wishes.close()
        self._ready.close()
        if self._thread.is_alive():
            self._thread.join(3.0)


def _camera(meta: dict[str, Any]) -> Camera | None:
    """Return the camera that a meta file describes, None where it does not."""
    facts = meta.get("camera")
    if not isinstance(facts, dict):
        return None
    try:
        arrays = {
            k: np.asarray(facts[k], float) for k in ("K", "distortion", "R", "t") if k in facts
        }
        return Camera(
            width=int(facts["width"]), height=int(facts["height"]),
            source=str(facts.get("source", "unknown")), **arrays,
        )  # fmt: skip
    except (KeyError, TypeError, ValueError) as error:
        log.warning("the camera in the meta file cannot be read (%s)", error)
        return None
