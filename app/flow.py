"""Frames through the detector, in order: reading, finding and following at the same time.

A thread of its own takes the frames. What is found in recorded ones is worked out for several at
once, by threads, by a second process or in one call, as the engine likes it; of live ones the
newest is taken when the network is free. The caller follows people meanwhile, so that neither
waits for the other.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor, wait

from manypose.app.glances import Glances
from manypose.app.handover import Closed, Line
from manypose.app.pipeline import Engine
from manypose.pose.records import Detections, Frame

Found = tuple[Detections, bool]
_SHORT_S = 1e-3


def detected(
    frames: Iterable[Frame],
    engine: Engine,
    *,
    live: bool = False,
    known: Callable[[Frame], Detections | None] | None = None,
    glances: Glances | None = None,
) -> Generator[Found]:
    """Yield what is found in every frame, in their order, and whether `known` had it.

    Memory is bounded by the frames in work. Closing the generator ends the reading at the next
    frame. Errors of the source and of the network are raised here, after what came before them.

    Args:
        frames: read by another thread.
        engine: its detector, and how many frames it likes in work.
        live: one frame at a time, each taken when the one before it is done.
        known: what is known of a frame already; asked by other threads.
        glances: which live frames are left to the follower.
    """
    workers = engine.batch if engine.parallel and not live else 1
    size = 1 if live or engine.parallel else engine.batch
    adaptive = engine.adaptive
    line: Line[Future[list[Found]]] = Line(1 if live else workers)
    sent = given = 0  # frames, each counted by one thread
    pool = ThreadPoolExecutor(workers, "find")

    def in_time(frames: Iterable[Frame]) -> Iterator[Frame]:
        """Take each frame that needs a glance only when the caller has done those before."""
        source = iter(frames)
        while True:
            while glances is not None and glances.enough and sent > given and not line.closed:
                time.sleep(_SHORT_S)
            if (frame := next(source, None)) is None:
                return
            yield frame

    def find(batch: list[Frame]) -> list[Found]:
        if glances is not None and (nobody := glances.instead(batch[0])) is not None:
            return [(nobody, False)]
        old = [known(f) if known is not None else None for f in batch]
        new = [f for f, o in zip(batch, old) if o is None]
        started = time.perf_counter()
        answers = engine.find(new) if new else []
        if live and adaptive is not None and answers:
            network_s = answers[0].stage_ms.get("network", 0.0) / 1e3
            adaptive.spent(time.perf_counter() - started, network_s)
        found = iter(answers)
        return [(next(found), False) if o is None else (o, True) for o in old]

    def feed() -> None:
        nonlocal sent
        try:
            for batch in _batches(in_time(frames) if glances else frames, size):
                sent += len(batch)
                done = pool.submit(find, batch)
                line.put(done)
                if live:
                    wait([done])
            line.end()
        except (Closed, RuntimeError) as error:
            # RuntimeError: the pool was shut down, because the caller has gone
            if isinstance(error, RuntimeError) and not line.closed:
                line.end(error)
        except BaseException as error:  # noqa: BLE001 - raised again in the caller's thread
            line.end(error)
        finally:
            getattr(frames, "close", lambda: None)()

    feeder = threading.Thread(target=feed, name="read", daemon=True)
    feeder.start()
    try:
        for done in line:
            for found in done.result():
                yield found
                given += 1
    finally:
        line.close()
        pool.shutdown(wait=True, cancel_futures=True)
        feeder.join(10)


def _batches(frames: Iterable[Frame], size: int) -> Iterator[list[Frame]]:
    """Yield the frames in lists of this length, the last one shorter."""
    batch: list[Frame] = []
    for frame in frames:
        batch.append(frame)
        if len(batch) == size:
            yield batch
            batch = []
    if batch:
        yield batch
