"""Workers that find people in shards: this process alone, or actors of Ray on many machines.

A worker loads the network once and keeps it. Ray places the actors, starts them again when they die
and repeats what they lost; nothing of that is done here.
"""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import os
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, Protocol

from manypose.app.config import Config
from manypose.app.flow import detected
from manypose.app.journal import Found, found_in
from manypose.app.pipeline import Engine
from manypose.app.shards import Shard, frames_of
from manypose.app.sources import threads_lent
from manypose.errors import DeviceError, ManyposeError, UsageError

log = logging.getLogger(__name__)

Load = Callable[..., Engine]
_TRIES = 3  # a shard that took so many workers with it is left to the ordinary run


class Worker:
    """Loads the network once; finds the people of one shard after another."""

    def __init__(self, load: Load, config: Config, still: bool, batch: int) -> None:
        self._config = config
        self._engine = load(config, still=still, batch=batch)

    def info(self) -> dict[str, Any]:
        """Return what runs here: model, sha256, runtime, device, precision, ..."""
        return dict(self._engine.info)

    def find(self, shard: Shard) -> list[Found]:
        """Return what is found in the frames of a shard, in the journal's form.

        Raises:
            SourceError: the source cannot be read.
        """
        flow = detected(frames_of(shard, self._config), self._engine)
        with contextlib.closing(flow):
            return [found_in(detections) for detections, _ in flow]


class Crew(Protocol):
    """Workers; `info` is what all of them run."""

    info: Mapping[str, Any]
    size: int

    def work(self, shards: Iterable[Shard]) -> Iterator[tuple[Shard, list[Found] | None]]:
        """Yield every shard with what was found in it, in any order; None = not managed."""

    def close(self) -> None:
        """End the workers."""


class Alone:
    """The crew of one: this process."""

    size = 1

    def __init__(self, load: Load, config: Config, *, still: bool = False) -> None:
        batch = min(config.model.threads or threads_lent(), 8)
        self._worker = Worker(load, config, still, batch)
        self.info: Mapping[str, Any] = self._worker.info()
        self._closing = threading.Event()

    def work(self, shards: Iterable[Shard]) -> Iterator[tuple[Shard, list[Found] | None]]:
        """Yield the shards one by one."""
        for shard in shards:
            if self._closing.is_set():
                return
            yield shard, _managed(self._worker.find, shard)

    def close(self) -> None:
        """End after the shard at hand."""
        self._closing.set()


def _managed(find: Callable[[Shard], list[Found]], shard: Shard) -> list[Found] | None:
    try:
        return find(shard)
    except ManyposeError as error:  # the ordinary run meets it again, and tells it
        log.debug("%s: %s", shard.address, error)
        return None


class Actors:
    """Workers as actors of Ray, which places them, restarts them and repeats what they lost.

    Where RAY_ADDRESS names a cluster they run there; files and results must then be at the same
    path on all its machines. Otherwise Ray starts on this machine and ends with the crew.
    """

    def __init__(
        self, load: Load, config: Config, workers: int = 0, *, still: bool = False
    ) -> None:
        """Start Ray and the workers; waits until their networks are loaded.

        Args:
            load: loads an Engine, as `pipeline.load_engine`.
            config: settings of the run.
            workers: how many; 0 for one on each GPU, or, without GPUs, on each processor.
            still: every picture on its own.

        Raises:
            DeviceError: Ray is not installed or does not start.
            WeightsError: the networks cannot be loaded.
        """
        self._ray = ray = _ray()
        self._mine = not ray.is_initialized()
        if self._mine:
            try:
                ray.init(include_dashboard=False, logging_level=logging.WARNING)
            except (OSError, RuntimeError, ValueError) as error:
                raise DeviceError(f"Ray does not start: {error}. See: ray status") from error
        there = ray.cluster_resources()
        gpus = 0 if config.model.device == "cpu" else int(there.get("GPU", 0))
        threads = config.model.threads or 1  # a picture per core: the most frames a second
        self.size = workers or gpus or max(1, int(there.get("CPU", 1)) // threads)
        placed = {"num_gpus": 1} if gpus else {"num_cpus": threads}
        self._kind = ray.remote(max_restarts=_TRIES, max_task_retries=_TRIES, **placed)(Worker)
        config = _anywhere(config, 0 if gpus else threads)
        batch = 8 if gpus else threads
        try:
            self.info: Mapping[str, Any] = self._first(load, config, still, batch)
            pinned = (
                dataclasses.replace(
                    config.model, backend=self.info["runtime"], precision=self.info["precision"]
                )
                if "engine" in self.info
                else config.model
            )
            config = dataclasses.replace(config, model=pinned)
            self._actors = [self._kind.remote(load, config, still, batch) for _ in range(self.size)]
        except BaseException:
            self.close()
            raise
        self._closing = threading.Event()

    def _first(self, load: Load, config: Config, still: bool, batch: int) -> dict[str, Any]:
        """Let one worker choose runtime and precision; all others are then told to run these."""
        ray = self._ray
        scout = self._kind.remote(load, config, still, batch)
        try:
            info: dict[str, Any] = ray.get(scout.info.remote())
        except ray.exceptions.RayTaskError as error:
            raise error.cause if isinstance(error.cause, ManyposeError) else error from None
        except ray.exceptions.RayError as error:
            text = str(error).strip().splitlines()
            for line in text:
                if "manypose.errors." in line:  # raised while the worker was made
                    raise DeviceError(line.partition(": ")[2]) from error
            raise DeviceError(f"no worker can be started: {text[-1] if text else error}") from error
        finally:
            ray.kill(scout)
        return info

    def work(self, shards: Iterable[Shard]) -> Iterator[tuple[Shard, list[Found] | None]]:
        """Yield shards as they are done; each worker has one more waiting."""
        ray = self._ray
        waiting: deque[Shard] = deque()
        rest = iter(shards)
        tries: dict[Shard, int] = {}
        actors = list(self._actors)
        load = dict.fromkeys(range(len(actors)), 0)
        at_work: dict[Any, tuple[Shard, int]] = {}
        while not self._closing.is_set():
            while load and len(at_work) < 2 * len(load):
                shard = waiting.popleft() if waiting else next(rest, None)
                if shard is None:
                    break
                who = min(load, key=lambda k: load[k])
                load[who] += 1
                at_work[actors[who].find.remote(shard)] = shard, who
            if not at_work:
                yield from ((shard, None) for shard in [*waiting, *rest])  # nobody is left
                return
            done, _ = ray.wait(list(at_work), num_returns=1, timeout=0.5)
            for ref in done:
                shard, who = at_work.pop(ref)
                if who in load:
                    load[who] -= 1
                try:
                    yield shard, ray.get(ref)
                except ray.exceptions.RayTaskError as error:
                    if not isinstance(error.cause, ManyposeError):
                        raise
                    log.debug("%s: %s", shard.address, error.cause)
                    yield shard, None
                except ray.exceptions.RayError as error:
                    log.warning("worker %d is lost: %s", who + 1, str(error).splitlines()[0])
                    load.pop(who, None)
                    tries[shard] = tries.get(shard, 0) + 1
                    if tries[shard] < _TRIES:
                        waiting.append(shard)
                    else:
                        yield shard, None

    def close(self) -> None:
        """End the workers, and Ray if it was started here."""
        if hasattr(self, "_closing"):
            self._closing.set()
        if self._mine:
            self._ray.shutdown()
            return
        for actor in getattr(self, "_actors", ()):
            self._ray.kill(actor)


def _ray() -> Any:
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # Ray would report home
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    try:
        import ray
    except ImportError as error:
        raise DeviceError(
            "--batch with several workers needs Ray: pip install 'manypose[batch]'"
        ) from error
    return ray


def _anywhere(config: Config, threads: int) -> Config:
    """Return the settings for a process with another working folder."""

    def absolute(text: str) -> str:
        return str(Path(text).resolve()) if text and Path(text).exists() else text

    return dataclasses.replace(
        config,
        model=dataclasses.replace(config.model, name=absolute(config.model.name), threads=threads),
        camera=dataclasses.replace(config.camera, file=absolute(config.camera.file)),
    )


def make_crew(load: Load, config: Config, workers: int, *, still: bool = False) -> Crew:
    """Return the workers: this process for one, Ray for several or for a cluster (RAY_ADDRESS).

    Raises:
        UsageError: the number makes no sense.
        DeviceError, WeightsError: Ray or the networks cannot be had.
    """
    if not 0 <= workers <= 10_000:
        raise UsageError(f"--workers {workers}: how many workers, or 0 for all there is room for")
    if workers == 1 and not os.environ.get("RAY_ADDRESS"):
        return Alone(load, config, still=still)
    return Actors(load, config, workers, still=still)
