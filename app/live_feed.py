"""The lanes as the window sees them: panes, status line, recording, choice of camera."""

from __future__ import annotations

import functools
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from manypose.app.handover import Closed
from manypose.app.lanes import Lane, Lanes
from manypose.app.meter import Numbers, level, status_line
from manypose.app.recording import Recorder, session_name
from manypose.app.remembered import sessions_folder
from manypose.app.viewer.feed import Status, View
from manypose.errors import ManyposeError, OutputError
from manypose.pose import filters
from manypose.pose.records import Frame

_LEVELS = {"fast": 0.0, "normal": 1.0, "steady": 2.0, "off": 0.0}


@functools.cache
def _delay_ms(level_100: int) -> float:
    return filters.measured_delay_s(filters.between(level_100 / 100).root) * 1e3


class LiveFeed:
    """Feeds the window from lanes and does what its controls ask (feed.Feed, feed.LiveControls)."""

    title = "manypose live"
    play = None

    def __init__(
        self,
        lanes: Lanes,
        meta: Mapping[str, Any],
        *,
        record: Path | None = None,
        duration_s: float | None = None,
        smoothing: str = "normal",
        leave_on_error: bool = False,
    ) -> None:
        self.smoothing = tuple(
            (name, _delay_ms(round(100 * _LEVELS[name]))) for name in ("steady", "normal", "fast")
        )
        self.first_smoothing = _LEVELS[smoothing]
        self._lanes = lanes
        self._meta = dict(meta)
        self._record_to = record
        self._record_first = record is not None
        self._began = time.monotonic()
        self._duration_s = duration_s
        self._leave_on_error = leave_on_error
        self._views = [View(lane.name, 0, message=lane.message) for lane in lanes.lanes]
        self._frames: list[Frame | None] = [None] * len(lanes.lanes)
        self._serial = 0
        self._paused = False

    @property
    def live(self) -> LiveFeed:
        """The controls: the feed itself."""
        return self

    # what the window shows

    def views(self) -> Sequence[View]:
        """Return the newest state of every pane."""
        if self._record_first and all(lane.meter.numbers().done for lane in self._lanes.lanes):
            self._record_first = False
            self.set_recording(True)
        again = self._lanes.playback.again
        if again.is_set() and not any(lane.ended for lane in self._lanes.lanes):
            again.clear()
        for k, lane in enumerate(self._lanes.lanes):
            self._views[k] = self._view(k, lane, self._views[k])
        return self._views

    def _view(self, k: int, lane: Lane, last: View) -> View:
        try:
            result = lane.results.get(0.0)
        except Closed:
            result = None
        message = lane.message or self._lanes.loading
        if self._lanes.error is not None and not message:
            message = f"stopped: {self._lanes.error}"
        if result is not None and not self._paused:
            self._serial += 1
            self._frames[k] = result.frame
            image = result.frame.image
            return View(
                lane.name, self._serial, image, (image.shape[1], image.shape[0]), result.people,
                result.frame.camera, result.frame.time_s, message, result.up,
            )  # fmt: skip
        if message != last.message or lane.name != last.name:
            self._serial += 1
            gone = lane.error is not None or lane.message == "opening the source"
            people = () if gone else last.people
            image_now = None if gone else last.image
            return replace(
                last, name=lane.name, serial=self._serial, message=message, people=people,
                image=image_now,
            )  # fmt: skip
        return last

    def painted(self, view: View) -> None:
        """Note that this state is now on the screen."""
        for k, lane in enumerate(self._lanes.lanes):
            if self._views[k] is view and view.image is not None and not self._paused:
                lane.meter.shown(view.time_s)

    def status(self) -> Status:
        """Return the status line, of all lanes together."""
        numbers = [lane.meter.numbers() for lane in self._lanes.lanes]
        ended = self._lanes.ended or self._paused
        rank = {"ok": 0, "amber": 1, "red": 2}
        worst = max((level(n, ended) for n in numbers), key=lambda name: rank[name])
        text = status_line(together(numbers), self._network(), self.recorded_s())
        return Status(("paused | " if self._paused else "") + text, worst)

    def _network(self) -> str:
        engine = self._lanes.engine
        if engine is None:
            return self._lanes.loading
        return f"{engine.info.get('device', '')} {engine.info.get('precision', '')}".strip()

    def details(self) -> str:
        """Return network, device, and milliseconds by stage."""
        engine = self._lanes.engine
        rows = [] if engine is None else [f"{k:<12} {v}" for k, v in engine.info.items()]
        stages = self._lanes.stage_ms()
        rows += ["", *(f"{name:<12} {ms:7.2f} ms" for name, ms in stages.items())]
        if stages:
            rows.append(f"{'together':<12} {sum(stages.values()):7.2f} ms")
        for lane in self._lanes.lanes:
            n = lane.meter.numbers()
            if n.lag_ms is not None:
                lag = " / ".join(f"{v:.0f}" for v in n.lag_ms)
                rows.append(f"{lane.name[:12]:<12} lag p50 / p90 / p99: {lag} ms")
        return "\n".join(rows) or self._lanes.loading

    # what the window asks for

    def paused(self) -> bool:
        """Return whether the panes stand still."""
        return self._paused

    def set_paused(self, on: bool) -> None:
        """Let the panes stand still (a file too), or play a file again that has ended."""
        playback = self._lanes.playback
        if self._lanes.ended and not self._paused:
            playback.again.set()
            return
        self._paused = on
        if on:
            playback.paused.set()
        else:
            playback.paused.clear()

    def source(self) -> str:
        """Return the address of the first lane."""
        return self._lanes.lanes[0].address

    def source_names(self) -> Sequence[tuple[str, str]]:
        """Return the cameras of this machine, and what is open now."""
        from manypose.app.webcam import list_cameras

        found = [(f"camera:{c.index}", f"{c.index}  {c.name}") for c in list_cameras() or ()]
        present = self.source()
        short = Path(present).name or present
        known = {address for address, _ in found}
        return [*([] if present in known else [(present, short)]), *found]

    def choose_source(self, address: str) -> None:
        """Change the first lane over to another source."""
        self._lanes.lanes[0].change(address)

    def set_smoothing(self, level: float) -> float:
        """Smooth by 0 (least) to 2 (most); returns the added delay in ms."""
        self._lanes.smooth(filters.between(level))
        return _delay_ms(round(100 * level))

    def recorded_s(self) -> float | None:
        """Return for how long it has been recording, None while it is not."""
        recorders = [lane.recorder for lane in self._lanes.lanes if lane.recorder is not None]
        alive = [r.elapsed_s for r in recorders if r.error is None]
        return max(alive) if alive else None

    def set_recording(self, on: bool) -> str:
        """Start or end a recording of all lanes; returns its folder.

        Raises:
            OutputError: it cannot be written, or nothing has been seen yet.
        """
        return (
            start_recording(self._lanes, self._meta, self._take_folder())
            if on
            else (stop_recording(self._lanes))
        )

    def _take_folder(self) -> Path:
        given, self._record_to = self._record_to, None
        return given or sessions_folder() / session_name(self._lanes.lanes[0].name)

    def snapshot_folder(self) -> str:
        """Return where snapshots go."""
        return str(sessions_folder())

    def finished(self) -> bool:
        """Return whether the time asked for is over or nothing more can come."""
        if self._lanes.error is not None and self._lanes.engine is None:
            return isinstance(self._lanes.error, ManyposeError)
        if self._leave_on_error and self.source_error() is not None:
            return True
        limit = self._duration_s
        return limit is not None and time.monotonic() - self._began >= limit

    def source_error(self) -> ManyposeError | None:
        """Return why no source has ever given a picture, None if one has or still may."""
        errors = [lane.error for lane in self._lanes.lanes]
        nothing = all(view.image is None for view in self._views)
        return errors[0] if nothing and all(e is not None for e in errors) else None

    def close(self) -> None:
        """Stop all threads and finish a recording."""
        self._lanes.close()
        stop_recording(self._lanes)


def start_recording(lanes: Lanes, meta: Mapping[str, Any], folder: Path) -> str:
    """Start to record every lane, several lanes in folders of their own; returns the folder.

    Raises:
        OutputError: it cannot be written there, or the network is not loaded yet.
    """
    if lanes.engine is None:
        raise OutputError("Recording starts when the network is loaded; wait a moment.")
    for k, lane in enumerate(lanes.lanes):
        where = folder if len(lanes.lanes) == 1 else folder / f"{k}_{session_name(lane.name)[20:]}"
        source = {"name": lane.name, "address": lane.address}
        model = {"model": dict(lanes.engine.info), **meta, "source": source}
        lane.recorder = Recorder(where, model)
    return str(folder)


def stop_recording(lanes: Lanes) -> str:
    """End the recording of every lane; returns its folder ("" if there was none).

    Raises:
        OutputError: the files could not be finished.
    """
    folder = ""
    trouble: ManyposeError | None = None
    for lane in lanes.lanes:
        recorder, lane.recorder = lane.recorder, None
        if recorder is None:
            continue
        folder = str(recorder.folder)
        try:
            recorder.close()
        except ManyposeError as error:
            trouble = error
    if trouble is not None:
        raise trouble
    return folder


def together(numbers: Sequence[Numbers]) -> Numbers:
    """Return the numbers of several lanes in one: mean rates, worst lag, sums of counts."""
    if len(numbers) == 1:
        return numbers[0]
    dropped: dict[str, int] = {}
    for n in numbers:
        for reason, count in n.dropped.items():
            dropped[reason] = dropped.get(reason, 0) + count
    lags = [n.lag_ms for n in numbers if n.lag_ms is not None]
    silent = [n.silent_s for n in numbers if n.silent_s is not None]
    return Numbers(
        in_hz=sum(n.in_hz for n in numbers) / len(numbers),
        done_hz=sum(n.done_hz for n in numbers) / len(numbers),
        shown_hz=sum(n.shown_hz for n in numbers) / len(numbers),
        lag_ms=max(lags) if lags else None,
        people=sum(n.people for n in numbers),
        read=sum(n.read for n in numbers),
        done=sum(n.done for n in numbers),
        shown=sum(n.shown for n in numbers),
        dropped=dropped,
        silent_s=max(silent) if silent else None,
    )
