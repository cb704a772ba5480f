"""Recorded video in bulk: workers find people in shards, this process follows and writes.

What the workers find goes into the journals of the runs, and the ordinary run (`process`, resumed)
takes it from there. So the results equal those of a plain run bit by bit, whoever found what, and a
worker that dies costs the shard it was at; a shard that nobody manages is left to the ordinary run.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from manypose.app.completion import draws_later
from manypose.app.config import Config
from manypose.app.crew import Crew, Load
from manypose.app.folder import is_done, old_meta
from manypose.app.formats.part import cannot_write, write_json
from manypose.app.handover import Closed, Line
from manypose.app.inputs import Input
from manypose.app.journal import Journal
from manypose.app.meta import run_header
from manypose.app.pipeline import Engine, follower_config, lifting
from manypose.app.shards import FRAMES, Shard, cut
from manypose.app.sources import open_source
from manypose.errors import DeviceError, ManyposeError, UsageError
from manypose.pose.detector import Detector
from manypose.pose.records import Detections, Frame

log = logging.getLogger(__name__)

_TELL_S = 10.0


@dataclass(slots=True)
class _Open:
    """A run whose shards are under way."""

    one: Input
    journal: Journal
    left: int


class Batch:
    """Finds ahead of the ordinary runs: `ready` yields inputs whose journals are complete."""

    def __init__(
        self, crew: Crew, load: Load, config: Config, *, still: bool, resume: bool,
        every: bool = False, frames: int = FRAMES,
    ) -> None:  # fmt: skip
        """Keep the parts.

        Args:
            crew: who finds.
            load: loads the networks when frames come that no worker managed.
            config: settings of the run.
            still: the crew is for photographs; otherwise for videos. Inputs of the other kind are
                left to the ordinary run.
            resume: what was found before is kept.
            every: everything is taken as photographs.
            frames: of a shard, at most.
        """
        self.still, self._every = still, every
        self._crew, self._config, self._resume, self._frames = crew, config, resume, frames
        self._open: dict[int, _Open] = {}
        self._thread: threading.Thread | None = None
        self._line: Line[Input] = Line(1)
        late = _Late(load, config, still, crew.info)
        self.engine = Engine(
            late,  # type: ignore[arg-type]
            follower_config(config, still=still),
            crew.info,
            lift=lifting(config),
        )

    def ready(self, inputs: Sequence[Input]) -> Iterator[Input]:
        """Yield each input once, as soon as `process` with resume needs no network for it."""
        self._line = Line(len(inputs) + 1)
        self._thread = threading.Thread(
            target=self._work, args=(inputs,), name="batch", daemon=True
        )
        self._thread.start()
        yield from self._line

    def _work(self, inputs: Sequence[Input]) -> None:
        began = told = time.monotonic()
        frames = count = 0
        try:
            for shard, found in self._crew.work(self._shards(inputs)):
                run = self._open[shard.input]
                for entry in found or ():
                    run.journal.add(entry)
                frames += len(found or ())
                count += 1
                run.left -= 1
                if run.left == 0:
                    self._give(shard.input)
                if time.monotonic() - told > _TELL_S:
                    told = time.monotonic()
                    rate = frames / (told - began)
                    log.info(
                        "batch: %d shards, %d frames, %.1f frames/s by %d workers",
                        count, frames, rate, self._crew.size,
                    )  # fmt: skip
            self._line.end()
        except Closed:
            pass
        except BaseException as error:  # noqa: BLE001 - raised again in the main thread
            self._line.end(error)
        finally:
            for run in self._open.values():
                run.journal.close(remove=False)

    def _give(self, number: int) -> None:
        run = self._open.pop(number)
        run.journal.close(remove=False)
        self._line.put(run.one)

    def _shards(self, inputs: Sequence[Input]) -> Iterator[Shard]:
        """Yield what is to be done; inputs with nothing to be done are given on at once."""
        for number, one in enumerate(inputs):
            try:
                shards = self._begun(number, one)
            except UsageError:
                raise
            except ManyposeError as error:  # the ordinary run meets it again, and tells it
                log.debug("%s: %s", one.address, error)
                shards = []
            if shards:
                yield from shards
            elif number in self._open:
                self._give(number)
            else:
                self._line.put(one)

    def _begun(self, number: int, one: Input) -> list[Shard]:
        """Return the shards of one input that its journal does not have yet."""
        with open_source(one.address, self._config) as source:
            if (self._every or source.info.stills) != self.still:
                return []
            first = next(iter(source))
            info = source.info
            draw = not draws_later(source, self._config)
        header = run_header(info, first.camera, self._config, self.engine)
        old = old_meta(one.folder)
        if self._resume and is_done(one.folder, old, header, self._config, draw=draw):
            return []
        try:
            one.folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise cannot_write(one.folder, error) from error
        if old:  # no longer complete, whatever it was
            write_json(one.folder / "meta.json", {**old, "status": "running"})
        journal = Journal(one.folder, header["key"], resume=self._resume)
        with open_source(one.address, self._config) as source:
            shards = [s for s in cut(number, source, self._frames) if not _done(s, journal)]
        self._open[number] = _Open(one, journal, len(shards))
        return shards

    def close(self) -> None:
        """End the workers; what they found stays in the journals."""
        self._crew.close()
        self._line.close()
        if self._thread is not None:
            self._thread.join(30)


def _done(shard: Shard, journal: Journal) -> bool:
    if shard.count is None:
        return False
    return all(k in journal.found for k in range(shard.first, shard.first + shard.count))


class _Late:
    """A detector that loads its network when a frame comes that no worker managed."""

    def __init__(self, load: Load, config: Config, still: bool, info: Mapping[str, Any]) -> None:
        self._load, self._config, self._still, self._info = load, config, still, info
        self._detector: Detector | None = None

    def __call__(self, frames: Sequence[Frame]) -> list[Detections]:
        """Return the people of every frame."""
        if self._detector is None:
            log.warning("frames that no worker managed are done here")
            engine = self._load(self._config, still=self._still, batch=1)
            facts = ("sha256", "runtime", "precision")
            if any(engine.info.get(k) != self._info.get(k) for k in facts):
                raise DeviceError(
                    "the workers run another network than this machine would: give --backend and"
                    " --precision, or --resume when the workers are back"
                )
            self._detector = engine.detector
        return self._detector(frames)
