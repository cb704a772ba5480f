"""What can only be done when a recording is whole: smoothing, and drawing what was smoothed."""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import logging
import threading
from collections.abc import Generator, Iterator
from pathlib import Path

from manypose.app.config import Config, FilterConfig
from manypose.app.folder import RESULTS
from manypose.app.formats.part import write_json
from manypose.app.formats.reading import Run, StoredFrame, run_on_disk
from manypose.app.handover import Closed, Line
from manypose.app.process import Summary
from manypose.app.progress import Progress
from manypose.app.sources import Source, open_source, threads_lent
from manypose.errors import SourceError
from manypose.pose.records import Frame

log = logging.getLogger(__name__)

_AHEAD = 8  # frames read before they are drawn: full pictures, so few
_THREADS_MAX = 4  # of the encoder, each of which holds pictures too


def decided(config: Config, args: argparse.Namespace) -> Config:
    """Return the settings with `filter.smooth` decided for recordings.

    By default they are smoothed when they are whole; not where somebody wants the results at once,
    where there is no file to smooth, or where another live filter than the usual one is asked for.
    """
    if config.filter.smooth != "auto":
        return config
    waiting = args.vmc or args.osc or args.udp or args.websocket or args.still
    stored = {"npz", "jsonl"} & set(config.output.formats)
    whole = stored and not waiting and config.filter.preset == FilterConfig().preset
    filter_ = dataclasses.replace(config.filter, smooth="adaptive" if whole else "none")
    return dataclasses.replace(config, filter=filter_)


def draws_later(source: Source, config: Config) -> bool:
    """Return whether the overlay of a source is drawn when its joints are smoothed.

    So it is where the source can be read a second time.
    """
    again = not source.live and Path(source.info.address).exists()
    return config.output.video and _smooths(config) and again and not source.info.stills


def _smooths(config: Config) -> bool:
    stored = {"npz", "jsonl"} & set(config.output.formats)
    return config.filter.smooth not in ("auto", "none") and bool(stored)


def complete(
    summary: Summary, address: str, config: Config, progress: Progress, *, draw: bool
) -> Summary:
    """Smooth the written results of a recording, once, and draw them if that was put off.

    Stopped by Ctrl-C it gives a summary with status "interrupted"; what is written stays, and the
    rest is done with --resume.

    Args:
        summary: of the recording, whose folder has its results.
        address: what `open_source` was given.
        config: the settings, decided.
        progress: told how far it is.
        draw: see `draws_later`.

    Raises:
        OutputError: the folder cannot be written.
    """
    if config.filter.smooth in ("auto", "none"):
        return summary
    if not any(name in ("pose.npz", "pose.jsonl") for name in summary.outputs):
        if summary.status != "failed":
            log.warning("--smooth: needs npz or jsonl among the formats; nothing was smoothed")
        return summary
    folder = Path(summary.folder)
    try:
        with run_on_disk(folder) as stored:
            if "smooth" not in stored.meta and not stored.meta.get("still"):
                stored = _smoothed(stored, config.filter.smooth, progress)
            if draw and len(stored) and not (folder / "overlay.mp4").exists():
                _draw(stored, address, config, progress)
    except KeyboardInterrupt as stop:
        code = getattr(stop, "exit_code", 130)
        summary = dataclasses.replace(summary, status="interrupted", exit_code=code)
    outputs = tuple(name for name in RESULTS if (folder / name).exists())
    return dataclasses.replace(summary, outputs=outputs)


def _smoothed(stored: Run, how: str, progress: Progress) -> Run:
    from manypose.app.rewrite import WITH_JOINTS, write_run
    from manypose.app.smoothing import smooth_run

    frames = len(stored)

    def tell(share: float) -> None:
        progress.afterwards("smoothing", round(share * frames), frames)

    tell(0.0)
    calm = smooth_run(stored, how, lambda share: tell(share / 2))
    write_run(calm, stored.folder, WITH_JOINTS, lambda share: tell((1 + share) / 2))
    return calm


def _draw(stored: Run, address: str, config: Config, progress: Progress) -> None:
    """Write overlay.mp4 as far as the source can be read again, and name it in meta.json."""
    from manypose.app.formats.video import overlay_writer
    from manypose.app.rewrite import stored_result

    progress.afterwards("drawing", 0, len(stored))
    threads = min(threads_lent(), _THREADS_MAX)  # nothing else is at work now
    with overlay_writer(stored.folder, stored.meta, threads) as film:
        try:
            with contextlib.closing(_read(address, config)) as frames:
                for done, (one, frame) in enumerate(_paired(stored, frames), 1):
                    film.write(stored_result(one, frame.image))
                    progress.afterwards("drawing", done, len(stored))
        except SourceError as error:
            log.warning("overlay.mp4 ends early: %s", error)
    facts = stored.meta.get("summary") or {}
    outputs = [name for name in RESULTS if (stored.folder / name).exists()]
    meta = {**stored.meta, "summary": {**facts, "outputs": outputs}}
    write_json(stored.folder / "meta.json", meta)


def _paired(stored: Run, frames: Iterator[Frame]) -> Iterator[tuple[StoredFrame, Frame]]:
    """Yield the stored frames with the pictures of the same number."""
    people = iter(stored)
    one = next(people)
    for frame in frames:
        while one.frame < frame.index:
            if (after := next(people, None)) is None:
                return
            one = after
        if one.frame == frame.index:
            yield one, frame


def _read(address: str, config: Config) -> Generator[Frame]:
    """Yield the frames of a source, a few of them read ahead by a thread."""
    line: Line[Frame] = Line(_AHEAD)

    def feed(source: Source) -> None:
        try:
            for frame in source:
                line.put(frame)
            line.end()
        except Closed:
            pass
        except BaseException as error:  # noqa: BLE001 - raised again in the caller's thread
            line.end(error)

    with open_source(address, config) as source:
        reader = threading.Thread(target=feed, args=(source,), name="read", daemon=True)
        reader.start()
        try:
            yield from line
        finally:
            line.close()
            reader.join(10)
