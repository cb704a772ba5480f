"""Live sources on their way to the screen: one lane for each, one network for all.

Every source reads in its own thread into a slot where the newest picture wins. One worker asks the
network for the newest of every lane at once, and each lane's Follower takes its share. Pictures
pass through without people while the network is loading.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace

import numpy as np

from manypose.app.config import Config
from manypose.app.finder import with_finder
from manypose.app.glances import Glances, found_in
from manypose.app.handover import Closed, Latest, Line
from manypose.app.meter import Meter
from manypose.app.pipeline import Engine, for_live, load_detector
from manypose.app.recording import Recorder
from manypose.app.sources import Counts, LiveSource, Source, open_source
from manypose.calib.camera import Camera
from manypose.errors import ManyposeError
from manypose.pose.estimator import Follower
from manypose.pose.filters import Preset
from manypose.pose.records import Detections, Frame, FrameResult

log = logging.getLogger(__name__)

_WAIT_S = 0.05
# What was found in the pictures of one round: each with its lane and the lane's generation.
_Found = tuple[Engine, "list[tuple[tuple[Lane, int], Detections]]"]
Opener = Callable[[str, Config], Source]


class Playback:
    """How recorded sources are played as if live: whether they stand still, and begin again."""

    def __init__(self, loop: bool = False) -> None:
        self.loop = loop
        self.paused = threading.Event()
        self.again = threading.Event()
        self.waits_at_end = False


class Lane:
    """One source, its Follower, its newest result and its numbers."""

    def __init__(self, address: str, config: Config, playback: Playback, opener: Opener) -> None:
        self.address = self._own_name = address
        self.family: Sequence[Lane] = (self,)
        self.meter = Meter()
        self.results: Latest[FrameResult] = Latest()
        self.message = "opening the source"
        self.stills = False  # the source gives photographs
        self._early: Frame | None = None  # one of them that came before the network
        self.error: ManyposeError | None = None
        self.ended = False
        self.recorder: Recorder | None = None
        self.sinks: list[Callable[[FrameResult], None]] = []
        self.follower: Follower | None = None
        self.glances: Glances | None = None
        self._config = config
        self._playback = playback
        self._opener = opener
        self._source: LiveSource | None = None
        self._lock = threading.Lock()
        self.generation = 0  # counts changes of the source
        self._passed = 0
        self.shown_early = 0  # pictures that came before the network was loaded
        self._open()

    @property
    def name(self) -> str:
        """The source's name, numbered where several sources have the same."""
        same = [lane for lane in self.family if lane._own_name == self._own_name]
        return f"{self._own_name} {same.index(self) + 1}" if len(same) > 1 else self._own_name

    @property
    def state(self) -> str:
        """What is the matter with the source, "" when all is well."""
        source = self._source
        return self.message or (source.trouble if source is not None else "")

    def change(self, address: str) -> None:
        """Change over to another source; the old one is given back before. Never waits."""
        with self._lock:
            old, self._source = self._source, None
        self.address = self._own_name = address
        self.follower, self.glances, self.error, self.ended = None, None, None, False
        self.shown_early, self._early = 0, None
        self.message = "opening the source"
        self.meter.restart()
        self._open(old)

    def _open(self, old: LiveSource | None = None) -> None:
        """Close the old source and open in a thread of its own: some cameras need seconds."""
        self.generation += 1
        mine = self.generation

        def work() -> None:
            if old is not None:
                old.close()
            try:
                source = self._live(self._opener(self.address, self._config))
            except ManyposeError as error:
                if mine == self.generation:
                    self.error, self.message, self.ended = error, str(error), True
                return
            with self._lock:
                if mine == self.generation:
                    self._source, self._own_name, self.message = source, source.info.name, ""
                    self.stills = source.info.stills
                    return
            source.close()

        threading.Thread(target=work, name=f"open {self.address}", daemon=True).start()

    def _live(self, source: Source) -> LiveSource:
        if isinstance(source, LiveSource):
            return source
        return LiveSource(source.info, lambda live: self._played(source, live), Counts())

    def _played(self, source: Source, live: LiveSource) -> Iterator[Frame]:
        """Yield a recorded source at its own pace, with pauses and repetitions."""
        index = 0
        while True:
            start: float | None = None
            with source:
                for frame in source:
                    start = self._due(frame, start, live)
                    if live.stopping.is_set():
                        return
                    yield Frame(frame.picture, start + frame.time_s, index, frame.camera)
                    index += 1
            if not self._playback.loop:
                if not self._playback.waits_at_end:
                    return
                self.ended = True
                self.message = "the end: press Space to play it again"
                while not self._playback.again.wait(0.1):
                    if live.stopping.is_set():
                        return
                self.message, self.ended = "", False
            source = self._opener(self.address, self._config)

    def _due(self, frame: Frame, start: float | None, live: LiveSource) -> float:
        """Wait until a frame is due; return the time at which the source (re)started."""
        now = time.perf_counter()
        if start is None:
            start = now - frame.time_s
        if self._playback.paused.is_set():
            while self._playback.paused.is_set() and not live.stopping.wait(0.03):
                pass
            return time.perf_counter() - frame.time_s
        if (wait := start + frame.time_s - now) > 0:
            live.stopping.wait(wait)
        return start

    def show_early(self, frame: Frame) -> None:
        """Show a picture for which there is no network yet; the newest photograph is kept."""
        self.shown_early += self._early is not None or not self.stills
        self._early = frame if self.stills else None
        self.results.put(FrameResult(frame, ()))

    def take(self, timeout_s: float, *, kept: bool = False) -> Frame | None:
        """Return the source's newest picture (kept: or an early one), None without."""
        if kept and (early := self._early) is not None:
            self._early = None
            return early
        source = self._source
        if source is None:
            return None
        try:
            frame = source.latest(timeout_s)
        except Closed:
            self._finish(source, None)
            return None
        except ManyposeError as error:
            self._finish(source, error)
            return None
        self._count(source)
        return frame

    def _count(self, source: LiveSource) -> None:
        """Tell the meter what was read and lost; read = done + all drops but "paint"."""
        if self.follower is None:
            self._passed = self.results.dropped["stale"]
        own = {
            "loading": self.shown_early,
            "undecodable": source.counts.undecodable,
            "paint": self.results.dropped["stale"] - self._passed,
        }
        # dict() copies in one step: the reader's thread may add a reason meanwhile
        lost = Counter(dict(source.counts.dropped)) + Counter(own)
        self.meter.source(source.counts.read, lost)

    def _finish(self, source: LiveSource, error: ManyposeError | None) -> None:
        with self._lock:
            if source is not self._source:
                return
            self._source = None
        source.close()
        self._count(source)
        self.error, self.ended = error, True
        self.message = str(error) if error else "the source has ended"

    def give(self, result: FrameResult) -> None:
        """Leave a result for the screen and the recording."""
        self.meter.done(len(result.people))
        if self.recorder is not None:
            self.recorder.write(result)
        for sink in self.sinks:
            sink(result)
        self.results.put(result)

    def close(self) -> None:
        """Give the source back."""
        self.generation += 1
        with self._lock:
            source, self._source = self._source, None
        if source is not None:
            source.close()


class Lanes:
    """All live sources, and the threads that find and follow people in them."""

    def __init__(
        self,
        addresses: Sequence[str],
        config: Config,
        load: Callable[[Config], Engine],
        *,
        playback: Playback | None = None,
        opener: Opener = open_source,
    ) -> None:
        self.playback = playback or Playback()
        # recorded sources are paced here, because here they can be paused
        config = for_live(replace(config, source=replace(config.source, realtime=False)))
        self.lanes = [Lane(a, config, self.playback, opener) for a in addresses]
        for lane in self.lanes:
            lane.family = self.lanes
        self.engine: Engine | None = None
        self.loading = "loading model 1/3: libraries"
        self.error: BaseException | None = None
        self._config = config
        self._load = load
        self._preset: Preset | None = None
        self._preset_changed = False
        self._stop = threading.Event()
        self._stages: deque[Mapping[str, float]] = deque(maxlen=60)
        # One picture is followed while people are found in the next; a third one would only wait.
        self._found: Line[_Found] = Line(1)
        self._sent = self._given = 0  # rounds found and followed, each counted by one thread
        self._threads = [
            threading.Thread(target=self._loader, name="load", daemon=True),
            threading.Thread(target=self._worker, name="estimate", daemon=True),
            threading.Thread(target=self._follow, name="follow", daemon=True),
        ]
        for thread in self._threads:
            thread.start()

    @property
    def ended(self) -> bool:
        """Whether no source gives pictures any more."""
        return all(lane.ended for lane in self.lanes)

    @property
    def done(self) -> bool:
        """Whether besides every picture taken has its result."""
        return self.ended and self._sent == self._given

    def smooth(self, preset: Preset) -> None:
        """Filter by this preset from the next frame on."""
        self._preset, self._preset_changed = preset, True

    def stage_ms(self) -> dict[str, float]:
        """Return the mean milliseconds of each stage over the last frames."""
        recent = list(self._stages)
        names = {name: None for stages in recent for name in stages}
        return {n: float(np.mean([s.get(n, 0.0) for s in recent])) for n in names}

    def _loader(self) -> None:
        try:
            # the slow imports; the tracker would do the second one when it sees somebody
            import scipy.optimize  # noqa: F401

            import manypose.models.backends  # noqa: F401

            self.loading = "loading model 2/3: network"
            engine = self._load(self._config)
            self.loading = "loading model 3/3: first run"
            blank = np.zeros((320, 512, 3), np.uint8)
            engine.detector([Frame(blank, 0.0, 0, Camera.from_fov(512, 320))])
            self.loading = ""
            self.engine = with_finder(engine, load_detector, self._config)
        except BaseException as error:  # noqa: BLE001 - told to the thread that waits for results
            self.loading = f"no people: {error}"
            self.error = error

    def _worker(self) -> None:
        try:
            turn = 0
            while not self._stop.is_set():
                turn += 1
                self._round(turn)
        except Closed:
            pass
        except BaseException as error:
            log.debug("the worker failed", exc_info=error)
            self.error = error
        finally:
            self._found.end()

    def _follow(self) -> None:
        try:
            for found in self._found:
                self._give(found)
                self._given += 1
        except BaseException as error:
            log.debug("following failed", exc_info=error)
            self.error = error
            self._found.close()
        finally:
            for lane in self.lanes:
                lane.results.end()

    def _round(self, turn: int) -> None:
        """Find people in the newest picture of every lane, in all together."""
        glance = any(lane.glances is not None and lane.glances.enough for lane in self.lanes)
        if self._sent - self._given > (not glance):  # a picture taken now would only get old
            self._stop.wait(0.002)
            return
        ready = self.engine is not None
        taken = [(n, f) for n in self.lanes if (f := n.take(0.0, kept=ready)) is not None]
        if not taken:
            # wait at one lane, each in its turn; the others are looked at when it wakes
            lane = self.lanes[turn % len(self.lanes)]
            if lane.ended or len(self.lanes) > 1:
                self._stop.wait(0.005)
            frame = lane.take(0.0 if lane.ended else _WAIT_S / len(self.lanes))
            if frame is None:
                if lane._source is None:
                    self._stop.wait(0.02)
                return
            taken = [(lane, frame)]
        engine = self.engine
        if engine is None:
            for lane, frame in taken:
                lane.show_early(frame)
            return
        started = time.perf_counter()
        entries = [(lane, lane.generation) for lane, _ in taken]
        detections, answers = found_in([(lane.glances, f) for lane, f in taken], engine.find)
        if engine.adaptive is not None and answers:
            network_ms = sum(d.stage_ms.get("network", 0.0) for d in answers)
            engine.adaptive.spent(time.perf_counter() - started, network_ms / 1e3)
        self._sent += 1
        self._found.put((engine, list(zip(entries, detections))))

    def _give(self, found: _Found) -> None:
        """Follow the people found in the pictures of one round, and hand on the results."""
        engine, pictures = found
        for (lane, generation), detections in pictures:
            if generation != lane.generation:
                continue  # of a source that has been changed meanwhile
            if lane.follower is None:
                lane.follower = engine.follower(still=lane.stills)
                lane.glances = engine.glances(lane.follower)
                if self._preset is not None:
                    lane.follower.smooth(self._preset)
            result = lane.follower(detections)
            self._stages.append(result.stage_ms)
            lane.give(result)
        if self._preset_changed and self._preset is not None:
            self._preset_changed = False
            for lane in self.lanes:
                if lane.follower is not None:
                    lane.follower.smooth(self._preset)
        if engine.finder is not None:
            engine.finder.start()  # now, so that it does not hold up the first skeleton

    def close(self) -> None:
        """Stop the threads, then give the sources back."""
        self._stop.set()
        self.playback.paused.clear()
        self._found.close()
        for thread in self._threads[1:]:
            thread.join(10.0)
        if self.engine is not None and self.engine.finder is not None:
            self.engine.finder.close()
        for lane in self.lanes:
            lane.close()
            lane.results.close()
