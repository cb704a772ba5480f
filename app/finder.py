"""A second process that finds people, while this one decodes, follows and writes.

One Python runs one thread of Python code at a time, and finding and following are both full of it:
in one process two cores wait for each other. Over the border go the small picture that the network
wants, in shared memory, and the people found; the pictures themselves stay here. What comes back is
what this process would have found, bit for bit. While the second process is not ready, and should
it end by accident, this one finds people itself.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import logging
import mmap
import os
import pickle
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections import deque
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np

from manypose.app import far_picture
from manypose.app.config import Config
from manypose.app.far_picture import FarPicture, Wanted
from manypose.app.pipeline import Engine
from manypose.calib.camera import Camera
from manypose.models import choice
from manypose.models.machine import cores
from manypose.models.preprocess import fitted, scale, scale_parts
from manypose.pose import portraits
from manypose.pose.detector import Detector
from manypose.pose.lifting import packed_bones, unpacked_bones
from manypose.pose.records import Detections, Frame, Person2D, Person3D

log = logging.getLogger(__name__)

FRAMES_MIN = 300  # a shorter video is done before the second process has paid for its start
_WAIT_S, _ANSWER_S = 0.5, 120.0

Detect = Callable[[Sequence[Frame]], list[Detections]]
Load = Callable[[], Detector]


@dataclass(frozen=True, slots=True, eq=False)
class _Asked:
    """One frame on its way to the other process; camera None: the same as before."""

    shape: tuple[int, int, int]
    size: tuple[int, int]  # width and height of the small picture
    time_s: float
    index: int
    camera: Camera | None


@dataclass(slots=True, eq=False)
class _Place:
    """Two small pictures in shared memory, and the line to the thread that looks at them."""

    line: Connection
    memory: mmap.mmap
    ready: bool = False
    camera: Camera | None = None


class Finder:
    """Stands for a Detector; asks the other process once that is ready.

    Several threads may call it at once, as many as there are `places`.
    """

    def __init__(self, load: Load, here: Detect, input_size: tuple[int, int], places: int) -> None:
        """Keep what is needed; nothing starts before `start`.

        Args:
            load: makes the Detector of the other process; a function of a module, or a partial.
            here: finds people in this process.
            input_size: width and height of the network's input.
            places: frames in work at once.
        """
        self._load = load
        self._here = here
        self._input_size = input_size
        self._count = places
        self._process: Any = None
        self._places: deque[_Place] = deque()  # those nobody uses; threads may share a deque
        self._over = False
        self.answered = 0  # frames the other process has done
        self.cpu_s, self.peak_mb = 0.0, 0.0  # what it has taken, as of its last answer

    def start(self) -> None:
        """Begin the other process, once; returns at once."""
        if self._process is not None or self._over:
            return
        width, height = self._input_size
        size = 2 * max(width * height, portraits.WIDTH * portraits.HEIGHT) * 3  # whole, and parts
        theirs: list[tuple[int, int]] = []
        with contextlib.ExitStack() as given:
            for _ in range(self._count):
                mine, other = (Connection(s.detach()) for s in socket.socketpair())
                file = given.enter_context(tempfile.TemporaryFile())
                given.callback(other.close)
                file.truncate(size)
                self._places.append(_Place(mine, mmap.mmap(file.fileno(), size)))
                theirs.append((other.fileno(), file.fileno()))
            # Not by multiprocessing, which would run the user's own script there once more.
            code = (
                f"import sys; sys.path[:] = {sys.path!r}\n"
                f"from manypose.app.finder import serve; serve({theirs!r})"
            )
            self._process = subprocess.Popen(
                [sys.executable, "-c", code],
                stdin=subprocess.DEVNULL,
                pass_fds=[fd for pair in theirs for fd in pair],
                process_group=0,  # Ctrl-C is for this process; the other one ends with its lines
            )
        self._places[0].line.send_bytes(pickle.dumps(self._load))

    def __call__(self, frames: Sequence[Frame]) -> list[Detections]:
        """Return the people of every frame.

        Raises:
            ManyposeError: what the Detector of either process raises.
        """
        place = self._taken()
        if place is None:
            return self._here(frames)
        try:
            return [self._answer(place, frame) for frame in frames]
        except (EOFError, OSError) as error:
            self._end(error)
            return self._here(frames)
        finally:
            self._places.append(place)

    def _taken(self) -> _Place | None:
        """Return a place that is ready, None where this process must do the work."""
        if self._over or self._process is None:
            return None
        try:
            place = self._places.popleft()
        except IndexError:
            return None
        try:
            if not place.ready and place.line.poll():
                word = place.line.recv()
                if word is not None:
                    raise EOFError(word)
                place.ready = True
            if place.ready:
                return place
        except (EOFError, OSError) as error:
            self._end(error)
        self._places.append(place)
        return None

    def _answer(self, place: _Place, frame: Frame) -> Detections:
        started = time.perf_counter()
        width, height = self._input_size
        h, w = frame.shape
        nw, nh = fitted(w, h, width, height)
        scale(frame.picture, far_picture.whole(place.memory, nw, nh))
        resize_ms = 1e3 * (time.perf_counter() - started)
        camera = None if frame.camera is place.camera else frame.camera
        place.line.send(_Asked((h, w, 3), (nw, nh), frame.time_s, frame.index, camera))
        place.camera = frame.camera
        answer = self._received(place)
        while isinstance(answer, Wanted):
            outs = far_picture.parts(place.memory, answer.sizes)
            scale_parts(frame.picture, outs, answer.parts)
            place.line.send(None)
            answer = self._received(place)
        people, stage_ms, self.cpu_s, self.peak_mb = answer
        if isinstance(people, BaseException):
            raise people
        self.answered += 1
        return Detections(frame, _unpacked(people), {**stage_ms, "resize": resize_ms})

    def _received(self, place: _Place) -> Any:
        deadline = time.monotonic() + _ANSWER_S
        while not place.line.poll(_WAIT_S):
            if self._over or self._process.poll() is not None:
                raise EOFError("it has ended")
            if time.monotonic() > deadline:
                raise EOFError("it does not answer")
        return place.line.recv()

    def _end(self, error: Exception) -> None:
        if not self._over:
            self._over = True
            log.warning(
                "the process that finds people is lost (%s); this one goes on alone, more slowly",
                error,
            )

    def wait(self, timeout_s: float) -> bool:
        """Wait for the other process; returns whether it is ready."""
        deadline = time.monotonic() + timeout_s
        for place in list(self._places):
            if not place.ready and not place.line.poll(max(0.0, deadline - time.monotonic())):
                return False
        return bool(self._places) and not self._over

    def rest(self) -> None:
        """End the other process until it is started again; nobody may be finding people."""
        lost = self._over
        self.close()
        self._over = lost

    def close(self) -> None:
        """End the other process."""
        self._over = True
        for place in self._places:
            place.line.close()
            with contextlib.suppress(BufferError):  # somebody still looks at it
                place.memory.close()
        self._places.clear()
        if self._process is not None:
            self._process.kill()  # it has nothing to lose
            self._process.wait(5)
            self._process = None


def peak_mb() -> float | None:
    """Return the most memory this process has taken, None where the system does not say."""
    with contextlib.suppress(OSError):  # not ru_maxrss, which begins at the parent's
        for line in Path("/proc/self/status").read_text("ascii", "replace").splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) / 1024
    try:
        import resource
    except ImportError:  # not on Windows
        return None
    unit = 2**20 if sys.platform == "darwin" else 2**10
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / unit


def serve(places: Sequence[tuple[int, int]]) -> None:
    """Work in the other process until this one closes its lines; each a socket and a file."""
    lines = [Connection(line) for line, _ in places]
    memories = [mmap.mmap(file, 0) for _, file in places]
    with contextlib.suppress(EOFError, OSError):
        load: Load = pickle.loads(lines[0].recv_bytes())
        try:
            detector = load()
        except Exception as error:  # noqa: BLE001 - told in the process that started this one
            for line in lines:
                line.send(str(error))
            return
        _work(detector, lines, memories)


def _work(detector: Detector, lines: list[Connection], memories: list[mmap.mmap]) -> None:
    threads = [
        threading.Thread(target=_look, args=(detector, *place), daemon=True)
        for place in zip(lines, memories)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def _look(detector: Detector, line: Connection, memory: mmap.mmap) -> None:
    """Answer what comes over one line."""
    camera: Camera | None = None
    with contextlib.suppress(EOFError, OSError):
        line.send(None)  # ready
        while True:
            asked: _Asked = line.recv()
            camera = asked.camera or camera
            assert camera is not None
            picture = FarPicture(asked.shape, asked.size, line, memory)
            try:
                found = detector([Frame(picture, asked.time_s, asked.index, camera)])[0]
                answer: tuple[Any, Any] = _packed(found.people), dict(found.stage_ms)
            except Exception as error:  # noqa: BLE001 - raised again in the process that asked
                answer = _sendable(error), {}
            line.send((*answer, time.process_time(), peak_mb() or 0.0))


def _sendable(error: Exception) -> Exception:
    """Return the error, or its text where it cannot be sent to another process."""
    try:
        pickle.loads(pickle.dumps(error))
    except Exception:  # noqa: BLE001 - whatever its class does
        return RuntimeError(f"{type(error).__name__}: {error}")
    return error


def _packed(people: Sequence[Person3D]) -> Any:
    """Return people as few arrays; of encodings only the bones that are read."""
    if not people:
        return None
    return (
        np.stack([p.seen.joints_px for p in people]),
        np.stack([p.seen.confidence for p in people]),
        [p.seen.score for p in people],
        np.stack([p.seen.part_numbers for p in people]),
        np.stack([p.joints_rel_m for p in people]),
        np.stack([p.sigma_m for p in people]),
        np.stack([p.root_m for p in people]),
        [(p.root_sigma_m, p.size_error) for p in people],
        np.stack([packed_bones(p.seen) for p in people]),
    )


def _unpacked(packed: Any) -> tuple[Person3D, ...]:
    if packed is None:
        return ()
    return tuple(
        Person3D(
            Person2D(px, confidence, score, unpacked_bones(bones), parts), rel, sigma, root, *errors
        )
        for px, confidence, score, parts, rel, sigma, root, errors, bones in zip(
            *packed, strict=True
        )
    )


def with_finder(engine: Engine, load: Callable[[Config, int], Detector], config: Config) -> Engine:
    """Return the Engine with a Finder, not begun; as it was where a second process is no help.

    It needs several cores, a network on the CPU that takes frames in parallel, and a front end that
    looks at small pictures only: our networks. `load` is called there, where the same files and
    engines are chosen.
    """
    front_end = getattr(engine.detector, "front_end", None)
    ours = hasattr(front_end, "network") and engine.adaptive is None
    suits = engine.parallel if engine.batch > 1 else engine.info.get("device") == "cpu"
    if not (ours and suits and cores() > 1 and os.name == "posix"):
        return engine
    there = functools.partial(choice.as_decided, choice.decided(), load, config, engine.batch)
    finder = Finder(there, engine.detector, engine.info["input_size"], engine.batch)
    return dataclasses.replace(engine, finder=finder)


@contextlib.contextmanager
def begun(
    engine: Engine, load: Callable[[Config, int], Detector], config: Config
) -> Generator[Engine]:
    """Yield the Engine of `with_finder`, its second process ready; ends it afterwards."""
    helped = with_finder(engine, load, config)
    if helped.finder is None:
        yield engine
        return
    with contextlib.closing(helped.finder):
        helped.finder.start()
        helped.finder.wait(60)
        yield helped
