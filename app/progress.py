"""How far a run is, on stderr: a bar on a terminal, plain lines or JSON events elsewhere."""

from __future__ import annotations

import json
import os
import sys
import threading
import time
from collections import Counter, deque
from collections.abc import Mapping
from types import TracebackType
from typing import Any, Protocol

from manypose.app.health import HEALTH_S, health_line, source_health
from manypose.app.meter import Meter
from manypose.app.process import Tally
from manypose.app.sources import Source
from manypose.pose.records import FrameResult


class Progress(Protocol):
    """Told of every input and every frame."""

    def __enter__(self) -> Progress: ...
    def start(self, name: str, number: int, count: int) -> None:
        """A new input begins: the number-th of count."""

    def step(self, result: FrameResult, tally: Tally, source: Source) -> None:
        """A frame is done."""

    def afterwards(self, what: str, done: int, total: int) -> None:
        """So many frames of the recording at hand are through "smoothing" or "drawing"."""

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None: ...


def make_progress(style: str, *, quiet: bool) -> Progress:
    """Return the progress display: style auto, bar, plain, json or none."""
    if style == "auto":
        style = "none" if quiet else "bar" if sys.stderr.isatty() else "plain"
    return Bar() if style == "bar" else Lines(style)


class Rate:
    """Frames per second over the last few seconds, and the time left."""

    def __init__(self) -> None:
        self._marks: deque[tuple[float, int]] = deque(maxlen=64)

    def mark(self, done: int) -> None:
        """Note how many frames are done now (kept at most every 0.1 s)."""
        now = time.monotonic()
        if not self._marks or now - self._marks[-1][0] > 0.1:
            self._marks.append((now, done))

    def per_second(self) -> float:
        """Return the rate over the marks kept, 0 before there are two."""
        if len(self._marks) < 2:
            return 0.0
        (t0, n0), (t1, n1) = self._marks[0], self._marks[-1]
        return (n1 - n0) / (t1 - t0)

    def left_s(self, done: int, total: int | None) -> float | None:
        """Return the seconds left, None if the total is unknown."""
        rate = self.per_second()
        return None if not total or rate <= 0 else max(total - done, 0) / rate


class Bar:
    """A bar with rate and time left on a terminal."""

    def __init__(self) -> None:
        from rich import progress
        from rich.console import Console

        console = Console(stderr=True, no_color=bool(os.environ.get("NO_COLOR")) or None)
        self._bar = progress.Progress(
            progress.TextColumn("{task.description}"),
            progress.BarColumn(),
            progress.TextColumn("{task.completed:.0f}/{task.fields[whole]} frames"),
            progress.TextColumn("{task.fields[rate]:.1f} fps"),
            progress.TimeRemainingColumn(),
            console=console,
            transient=True,
        )
        self._task: Any = None
        self._text = ""
        self._rate = Rate()

    def __enter__(self) -> Bar:
        self._bar.start()
        return self

    def start(self, name: str, number: int, count: int) -> None:
        """Begin the bar of an input."""
        if self._task is not None:
            self._bar.remove_task(self._task)
        self._rate = Rate()
        text = name if count == 1 else f"{number}/{count} {name}"
        self._text = text
        self._task = self._bar.add_task(text, total=None, whole="?", rate=0.0)

    def step(self, result: FrameResult, tally: Tally, source: Source) -> None:
        """Move the bar on."""
        self._rate.mark(tally.processed)
        frames = tally.expected
        self._bar.update(
            self._task,
            completed=tally.processed,
            total=frames,
            whole=frames or "?",
            rate=self._rate.per_second(),
        )

    def afterwards(self, what: str, done: int, total: int) -> None:
        """Begin the bar again, for what is done in the end, and move it on."""
        if not done:
            self._rate = Rate()
        self._rate.mark(done)
        self._bar.update(
            self._task, description=f"{self._text}, {what}", completed=done, total=total,
            whole=total, rate=self._rate.per_second(),
        )  # fmt: skip

    def __exit__(self, *_: object) -> None:
        self._bar.stop()


class Lines:
    """A line each 10 s: plain, as JSON events, or none; of a live source its health.

    A thread says them, so that a source that has fallen silent is told of too.
    """

    def __init__(self, style: str, every_s: float = HEALTH_S) -> None:
        self._style = style
        self._every_s = every_s
        self._name = ""
        self._afterwards = ""
        self._rate = Rate()
        self._meter = Meter()
        self._done = 0
        self._source: Source | None = None
        self._input_size: tuple[int, int] | None = None
        self._expected: int | None = None
        self._began_s = time.monotonic()
        self._lock = threading.Lock()  # between the thread and the changes of input
        self._ending = threading.Event()
        self._thread = threading.Thread(target=self._work, name="progress", daemon=True)

    def __enter__(self) -> Lines:
        if self._style != "none":
            self._thread.start()
        return self

    def start(self, name: str, number: int, count: int) -> None:
        """Begin an input."""
        with self._lock:
            self._name, self._source, self._done = name, None, 0
            self._afterwards = ""
            self._rate, self._meter = Rate(), Meter()
        if self._style == "json":
            self._say({"event": "start", "input": name, "number": number, "count": count})

    def step(self, result: FrameResult, tally: Tally, source: Source) -> None:
        """Count a frame."""
        self._source, self._done = source, tally.processed
        self._input_size = tally.input_size
        self._expected = tally.expected
        self._rate.mark(tally.processed)
        if source.live and tally.captured_s is not None:
            counts = source.counts
            # dict() copies in one step: the reader's thread may add a reason meanwhile
            lost = Counter(dict(counts.dropped)) + Counter(undecodable=counts.undecodable)
            self._meter.source(counts.read, lost)
            self._meter.done(len(result.people))
            self._meter.shown(tally.captured_s + result.frame.time_s)

    def afterwards(self, what: str, done: int, total: int) -> None:
        """Count frames from the beginning, of what is done in the end."""
        with self._lock:
            if not done:
                self._rate = Rate()
            self._afterwards, self._done, self._expected = what, done, total
            self._rate.mark(done)

    def _work(self) -> None:
        while not self._ending.wait(self._every_s):
            with self._lock:
                if self._source is not None:
                    self._tell(self._source)

    def _tell(self, source: Source) -> None:
        frames = self._expected
        if source.live:
            state = getattr(source, "trouble", "") or "ok"
            health = source_health(self._name, self._meter.numbers(), state)
            uptime_s = time.monotonic() - self._began_s
            sys.stderr.write(health_line(uptime_s, [health], self._input_size))
            sys.stderr.flush()
        elif self._style == "json":
            left_s = self._rate.left_s(self._done, frames)
            self._say(
                {
                    "event": self._afterwards or "progress",
                    "input": self._name,
                    "frame": self._done,
                    "frames": frames,
                    "fps": round(self._rate.per_second(), 2),
                    "left_s": None if left_s is None else round(left_s, 1),
                }
            )
        else:
            what = f", {self._afterwards}" if self._afterwards else ""
            sys.stderr.write(f"{self._name}{what}: {self._text(self._done, frames)}\n")

    def _text(self, done: int, total: int | None) -> str:
        left_s = self._rate.left_s(done, total)
        left = "" if left_s is None else f", {left_s / 60:.0f} min {left_s % 60:.0f} s left"
        count = f"{done} of {total}" if total else f"{done}"
        return f"{count} frames, {self._rate.per_second():.1f} fps{left}"

    def _say(self, event: Mapping[str, Any]) -> None:
        sys.stderr.write(json.dumps(event, ensure_ascii=False) + "\n")
        sys.stderr.flush()

    def __exit__(self, *_: object) -> None:
        self._ending.set()
        if self._thread.is_alive():
            self._thread.join(2.0)
