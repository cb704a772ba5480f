"""Hours at work: ``python -m tests.soak --minutes 60`` fails when memory grows or a record is lost.

Half of the time goes to a recorded source at full speed, half to a live one of 30 frames a second.
People are generated and so is what a network would find in them; everything else is the program.
"""

from __future__ import annotations

import argparse
import gc
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent / "app"))  # troupe

import troupe

from manypose.app.config import Config, OutputConfig
from manypose.app.health import memory_mb
from manypose.app.lanes import Lanes
from manypose.app.process import Job, Tally, process
from manypose.app.sources import Counts, Source, SourceInfo
from manypose.pose.records import Frame, FrameResult

SLOPE_MAX_MB_H = 5.0
PEOPLE = 3


class Memory:
    """Memory at times; its slope after a warm-up of a quarter."""

    def __init__(self) -> None:
        self._marks: list[tuple[float, float]] = []

    def mark(self) -> None:
        """Note the memory in use, at most twice a second."""
        now = time.monotonic()
        if not self._marks or now - self._marks[-1][0] > 0.5:
            gc.collect()
            self._marks.append((now, memory_mb() or 0.0))

    def slope_mb_h(self) -> float:
        """Return the least-squares slope."""
        late = np.array(self._marks[len(self._marks) // 4 :])
        return float(np.polyfit(late[:, 0] / 3600, late[:, 1], 1)[0])


class Endless:
    """A recorded source of generated pictures that lasts for so many seconds of work."""

    live = False

    def __init__(self, seconds: float) -> None:
        self.info = SourceInfo("video", "soak", "soak", fps=30.0)
        self.counts = Counts()
        self.warnings: list[str] = []
        self.partial = False
        self._end = time.monotonic() + seconds

    def __iter__(self) -> Iterator[Frame]:
        index = 0
        while time.monotonic() < self._end:
            self.counts.read += 1
            image = np.zeros((troupe.HEIGHT, troupe.WIDTH, 3), np.uint8)
            yield Frame(image, index / 30, index, troupe.CAMERA)
            index += 1

    def __enter__(self) -> Source:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def close(self) -> None:
        """End the iteration."""
        self._end = 0.0


def recorded(seconds: float) -> tuple[str, bool]:
    """Return what a run at full speed did, and whether it was well."""
    memory = Memory()

    def look(result: FrameResult, tally: Tally, source: Source) -> None:
        memory.mark()

    engine = replace(troupe.engine(PEOPLE), batch=2)
    with tempfile.TemporaryDirectory() as folder:
        config = Config(output=OutputConfig(formats=("npz", "jsonl", "csv", "coco")))
        job = Job("soak", Path(folder), config, on_result=look)
        done = process(job, Endless(seconds), engine)
        with (Path(folder) / "pose.jsonl").open() as lines:
            written = sum(1 for _ in lines)
    slope = memory.slope_mb_h()
    spent = done.frames_reported + done.undecodable + sum(done.dropped.values())
    well = done.frames_read == spent and written == done.frames_reported
    text = f"recorded: {done.frames_reported} frames, {done.fps}/s, {written} lines"
    return f"{text}, slope {slope:+.1f} MB/h", well and slope < SLOPE_MAX_MB_H


def live(seconds: float) -> tuple[str, bool]:
    """Return what the live lanes did, and whether they were well."""
    memory = Memory()
    lanes: Lanes = troupe.lanes(people=PEOPLE, fps=30)
    lane = lanes.lanes[0]
    end = time.monotonic() + seconds
    taken = 0
    while time.monotonic() < end and lanes.error is None:
        result = lane.results.get(0.2)
        taken += result is not None
        memory.mark()
    lanes.close()
    n = lane.meter.numbers()
    slope = memory.slope_mb_h()
    lost = sum(count for reason, count in n.dropped.items() if reason != "paint")
    well = lanes.error is None and 0 <= n.read - n.done - lost <= 2
    text = f"live: {n.read} read = {n.done} done + {lost} dropped (+ {n.read - n.done - lost}"
    return f"{text} under way), {taken} taken, slope {slope:+.1f} MB/h", well and (
        slope < SLOPE_MAX_MB_H
    )


def main() -> int:
    """Run both halves; returns 1 when memory grew or a record was lost."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=60.0)
    seconds = parser.parse_args().minutes * 30
    code = 0
    for half in (recorded, live):
        text, well = half(seconds)
        sys.stdout.write(f"{text}: {'well' if well else 'NOT WELL'}\n")
        sys.stdout.flush()
        code |= not well
    return code


if __name__ == "__main__":
    sys.exit(main())
