"""One source to the files of one run: read, find and follow people, write, all at the same time.

Threads with bounded queues: those of `app.flow` decode and find people, the caller's runs the
Follower, the writer draws and writes. Memory does not grow with the length of the source.
"""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
import logging
import math
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from manypose.app.config import Config
from manypose.app.flow import detected
from manypose.app.folder import RESULTS, clear, is_done, old_meta, writers_of
from manypose.app.formats import Writer
from manypose.app.formats.part import cannot_write, write_json
from manypose.app.handover import Closed, Line
from manypose.app.journal import Journal, normalised
from manypose.app.meta import describe, run_header
from manypose.app.pipeline import Engine
from manypose.app.sources import Source
from manypose.errors import ManyposeError, SourceError
from manypose.pose.hindsight import Hindsight
from manypose.pose.joints import MISSING
from manypose.pose.records import Float, Frame, FrameResult

log = logging.getLogger(__name__)

_WRITE_BEHIND = 8  # frames in the queue: full pictures, so few


@dataclass(slots=True)
class Tally:
    """What is counted while a run goes on."""

    processed: int = 0
    recalled: int = 0
    people_max: int = 0
    ids: set[int] = field(default_factory=set)
    joints: int = 0
    filled: int = 0
    last_t: float = 0.0
    up: Float | None = None  # where up is, as last known
    expected: int | None = None  # frames, as far as the source says how many
    captured_s: float | None = None  # when the first frame of a live source was taken
    stage_ms: dict[str, float] = field(default_factory=dict)
    input_size: tuple[int, int] | None = None  # that the network takes now, if it follows the rate
    input_sizes: Counter[str] = field(default_factory=Counter)  # frames done at each

    def sized(self, size: tuple[int, int]) -> None:
        """Note at which input size the frame at hand was done."""
        self.input_size = size
        self.input_sizes[f"{size[0]}x{size[1]}"] += 1

    def add(self, result: FrameResult, *, recalled: bool) -> None:
        """Count one result."""
        self.processed += 1
        self.recalled += recalled
        self.last_t = result.frame.time_s
        self.up = self.up if result.up is None else result.up
        self.people_max = max(self.people_max, len(result.people))
        for person in result.people:
            self.ids.add(person.track_id)
            self.joints += person.state.size
            self.filled += int(np.count_nonzero(person.state != MISSING))
        if not recalled:
            for stage, ms in result.stage_ms.items():
                self.stage_ms[stage] = self.stage_ms.get(stage, 0.0) + ms

    def mean_ms(self) -> dict[str, float]:
        """Return the mean milliseconds of each stage over the frames not recalled."""
        fresh = max(self.processed - self.recalled, 1)
        return {stage: round(ms / fresh, 3) for stage, ms in self.stage_ms.items()}


@dataclass(frozen=True, slots=True)
class Summary:
    """How one input went.

    status: ok; partial (damaged source); interrupted; failed; done (complete before). exit_code is
    that of the error or signal, 0 otherwise. input_sizes: with model.target_fps, how many frames
    were done at each input size. For every status but done, frames_read =
    frames_reported + undecodable + the sum of dropped.
    """

    input: str
    folder: str
    status: str
    frames_read: int = 0
    frames_decoded: int = 0
    frames_reported: int = 0
    frames_recalled: int = 0
    seconds: float = 0.0
    x_real_time: float | None = None
    fps: float | None = None
    people: int = 0
    ids: int = 0
    filled_pct: float | None = None
    dropped: Mapping[str, int] = field(default_factory=dict)
    undecodable: int = 0
    input_sizes: Mapping[str, int] = field(default_factory=dict)
    warnings: Sequence[str] = ()
    outputs: Sequence[str] = ()
    error: str = ""
    exit_code: int = 0

    def as_dict(self) -> dict[str, Any]:
        """Return the summary as plain values."""
        return dataclasses.asdict(self)


@dataclass(frozen=True, slots=True, eq=False)
class Job:
    """One input and where its results go; on_result is told of every frame (progress, health).

    draw: write the overlay too, if the settings ask for it.
    """

    address: str
    folder: Path
    config: Config
    resume: bool = False
    seconds_max: float = 0.0
    command: Sequence[str] = ()
    draw: bool = True
    on_result: Callable[[FrameResult, Tally, Source], None] | None = None


def process(job: Job, source: Source, engine: Engine) -> Summary:
    """Run one opened source through to its files, and say how it went.

    What was done before an interruption or an error is valid and stays. KeyboardInterrupt gives
    a summary with status "interrupted"; the caller decides what that means.

    Raises:
        SourceError: the source gave no frame at all.
        OutputError: the results cannot be written.
    """
    return _Process(job, source, engine).run()


class _DoneBefore(Exception):  # noqa: N818 - an answer, not an error
    """The folder has the complete result of this very run."""


class _Process:
    def __init__(self, job: Job, source: Source, engine: Engine) -> None:
        self._job = job
        self._source = source
        self._engine = engine
        # What is recorded can wait until it is known who is who; what is live cannot.
        follower = engine.follower(still=source.info.stills)
        self._glances = engine.glances(follower) if source.live else None
        self._follow = Hindsight(follower, wait=not source.live)
        self._tally = Tally()
        self._journal: Journal | None = None
        self._results: Line[FrameResult] = Line(_WRITE_BEHIND)
        self._writing: threading.Thread | None = None
        self._write_error: BaseException | None = None
        self._header: dict[str, Any] = {}

    def run(self) -> Summary:
        start = time.perf_counter()
        status = "ok"
        error: BaseException | None = None
        with self._source, contextlib.ExitStack() as ending:
            ending.callback(self._stop)
            try:
                self._work()
            except _DoneBefore:
                return self._done_before()
            except KeyboardInterrupt as stop:
                status, error = "interrupted", stop
            except ManyposeError as trouble:
                if not self._tally.processed or self._write_error is not None:
                    raise
                status, error = "failed", trouble
            self._results.end()
            self._join()
            if status == "ok" and self._source.partial:
                status = "partial"
            return self._conclude(status, error, time.perf_counter() - start)

    def _work(self) -> None:
        """Take every frame through network and Follower to the writer."""
        frames = iter(self._source)
        first = next(frames, None)
        if first is None:
            return
        self._tally.captured_s = first.time_s if self._source.live else None
        self._tally.expected = self._expected()
        self._begin(first)
        journal = self._journal
        known = journal.recall if journal is not None else None
        keep = journal.keep if journal is not None else normalised
        counted = self._counted(itertools.chain((first,), frames), self._tally.captured_s or 0.0)
        live = self._source.live
        flow = detected(counted, self._engine, live=live, known=known, glances=self._glances)
        recalls: deque[bool] = deque()  # of the frames followed and not yet given
        try:
            try:
                with contextlib.closing(flow):
                    for found, recalled in flow:
                        results = self._follow(found if recalled else keep(found))
                        recalls.append(recalled)
                        if self._engine.adaptive is not None:
                            self._tally.sized(self._engine.adaptive.input_size)
                        for result in results:
                            self._give(result, recalled=recalls.popleft())
            finally:  # a run that was stopped gives what it has, too
                for result in self._follow.rest():
                    self._give(result, recalled=recalls.popleft())
        except Closed:
            self._join()  # raises what stopped the writer

    def _give(self, result: FrameResult, *, recalled: bool) -> None:
        """Hand a result to the writer and to those who are told."""
        self._tally.add(result, recalled=recalled)
        self._results.put(result)
        if self._job.on_result is not None:
            self._job.on_result(result, self._tally, self._source)

    def _expected(self) -> int | None:
        frames, fps, seconds = (
            self._source.info.frames,
            self._source.info.fps,
            self._job.seconds_max,
        )
        return min(frames, math.ceil(seconds * fps)) if frames and fps and seconds else frames

    def _counted(self, frames: Iterator[Frame], first_s: float) -> Iterator[Frame]:
        """Yield the frames up to the time limit, their times counted from the first one.

        Live sources stamp by the machine's clock.
        """
        for frame in frames:
            time_s = frame.time_s - first_s
            if self._job.seconds_max and time_s >= self._job.seconds_max:
                return
            yield dataclasses.replace(frame, time_s=time_s)

    def _begin(self, first: Frame) -> None:
        """Open journal and writers, now that the camera is known."""
        job = self._job
        self._header = run_header(self._source.info, first.camera, job.config, self._engine)
        if self._source.info.stills and not self._engine.follower_config.still:
            log.info("%s: taken as photographs, each on its own", job.address)
        if job.seconds_max:
            self._header["seconds_max"] = job.seconds_max
        old = old_meta(job.folder)
        if job.resume and is_done(job.folder, old, self._header, job.config, draw=job.draw):
            raise _DoneBefore
        if job.resume and old.get("status") in ("ok", "partial"):
            log.warning("%s: another source, settings or files: starts anew", job.folder)
        try:
            job.folder.mkdir(parents=True, exist_ok=True)
            clear(job.folder, old, keep_journal=job.resume)
        except OSError as error:
            raise cannot_write(job.folder, error) from error
        if not self._source.live:
            self._journal = Journal(job.folder, self._header["key"], resume=job.resume)
        write_json(job.folder / "meta.json", {**self._header, "status": "running"})
        self._writing = threading.Thread(
            target=self._write,
            args=(writers_of(job.folder, self._header, job.config, draw=job.draw),),
            name="write",
            daemon=True,
        )
        self._writing.start()

    def _write(self, writers: Sequence[Writer]) -> None:
        try:
            with contextlib.ExitStack() as stack:
                entered = [stack.enter_context(writer) for writer in writers]
                for result in self._results:
                    for writer in entered:
                        writer.write(result)
        except BaseException as error:  # noqa: BLE001 - raised again in the main thread
            self._write_error = error
            self._results.close()

    def _join(self) -> None:
        """Wait for the writer to finish its files; raises what went wrong there."""
        if self._writing is not None:
            self._writing.join()
            self._writing = None
        if isinstance(self._write_error, OSError):
            raise cannot_write(self._job.folder, self._write_error)
        if self._write_error is not None:
            raise self._write_error

    def _stop(self) -> None:
        """Leave nothing running and nothing open, however the work ended."""
        self._results.end()
        if self._writing is not None:
            self._writing.join(60)
        if self._journal is not None:
            self._journal.close(remove=False)

    def _done_before(self) -> Summary:
        """Return the summary of the run that is there already."""
        meta = old_meta(self._job.folder)
        known = {f.name for f in dataclasses.fields(Summary)}
        facts = {k: v for k, v in meta.get("summary", {}).items() if k in known}
        facts |= {"input": self._job.address, "folder": str(self._job.folder)}
        facts["status"] = "partial" if meta["status"] == "partial" else "done"
        return Summary(**facts)

    def _hints(self) -> Iterator[str]:
        """Yield what the user may want to do otherwise."""
        nobody = not self._tally.ids and self._tally.processed > 1
        if nobody and self._source.info.kind == "images" and not self._header["still"]:
            yield (
                "nobody could be followed from picture to picture; if they are photographs and"
                " not a sequence, --still takes each on its own"
            )

    def _conclude(self, status: str, error: BaseException | None, seconds: float) -> Summary:
        tally, counts, info = self._tally, self._source.counts, self._source.info
        if not tally.processed and status != "interrupted":
            raise SourceError(f"{self._job.address}: gave no pictures.")
        if self._journal is not None:
            self._journal.close(remove=status in ("ok", "partial"))
        self._source.close()  # so that nothing is counted any more
        dropped = Counter(counts.dropped)
        # read ahead of a stop, and not used
        unused = counts.read - counts.undecodable - tally.processed - dropped.total()
        dropped += Counter({"stopped": max(unused, 0)})
        clip_s = tally.last_t + 1 / (info.fps or 30.0) if tally.processed else 0.0
        summary = Summary(
            input=self._job.address,
            folder=str(self._job.folder),
            status=status,
            frames_read=counts.read,
            frames_decoded=counts.read - counts.undecodable,
            frames_reported=tally.processed,
            frames_recalled=tally.recalled,
            seconds=round(seconds, 3),
            x_real_time=None if self._source.live else round(clip_s / seconds, 3),
            fps=round(tally.processed / seconds, 2),
            people=tally.people_max,
            ids=len(tally.ids),
            filled_pct=round(100 * tally.filled / tally.joints, 1) if tally.joints else None,
            dropped=dict(dropped),
            undecodable=counts.undecodable,
            input_sizes=dict(tally.input_sizes),
            warnings=(*self._source.warnings, *self._hints()),
            outputs=tuple(n for n in RESULTS if (self._job.folder / n).exists()),
            error=str(error) if status == "failed" else "",
            exit_code=0 if error is None else getattr(error, "exit_code", 130),
        )
        if self._header:
            meta = describe(
                self._header, summary.as_dict(), self._engine, tally.mean_ms(), self._job.command,
                tally.up,
            )  # fmt: skip
            write_json(self._job.folder / "meta.json", meta)
        return summary
