"""The verb ``live``: cameras, streams or videos now, in a window or as a service without one."""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import json
import logging
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from manypose.app.config import Config
from manypose.app.handover import Closed
from manypose.app.health import HEALTH_S, health_line, source_health
from manypose.app.options import add_settings, add_streams, settings
from manypose.errors import ManyposeError, SourceError, UsageError

if TYPE_CHECKING:
    from manypose.app.lanes import Lanes

log = logging.getLogger(__name__)

_FORMATS = ("jsonl", "none")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the verb's options."""
    parser.add_argument(
        "sources", nargs="*", metavar="SOURCE",
        help="camera number or part of its name, video file, rtsp:// or http:// address; several"
        " are shown side by side (default: the first camera)",
    )  # fmt: skip
    parser.add_argument(
        "-s", "--source", action="append", default=[], dest="more_sources", metavar="SOURCE",
        help="the same as SOURCE",
    )  # fmt: skip
    add_settings(
        parser, "model.name", "model.backend", "model.device", "model.precision", "model.threads",
        "model.input", "model.target_fps", "model.careful",
        "camera.file", "camera.fov_deg", "source.rotate", "people.max", "fit.height_m",
        "filter.preset",
    )  # fmt: skip
    parser.add_argument(
        "--record", metavar="DIR", help="record from the start into this new folder"
    )
    add_streams(parser, "streams (of the first source)")
    parser.add_argument("--loop", action="store_true", help="begin a video again at its end")
    parser.add_argument("--duration", type=float, metavar="S", help="leave after so many seconds")
    parser.add_argument(
        "--no-gui", action="store_true",
        help="no window: results as JSON lines on stdout, one line of health each 10 s on stderr",
    )  # fmt: skip
    parser.add_argument(
        "--format", choices=_FORMATS, default=None, help="what goes to stdout (--no-gui): jsonl"
    )


def run(args: argparse.Namespace) -> int:
    """Show or serve until it is ended; returns the exit code."""
    if args.duration is not None and args.duration <= 0:
        raise UsageError("--duration must be above 0 seconds.")
    if args.format is not None and not args.no_gui:
        raise UsageError("--format belongs to --no-gui; in the window, press R to record.")
    config = settings(args)
    # smoothing of whole recordings, which a settings file may ask for, is not for what is live
    config = dataclasses.replace(config, filter=dataclasses.replace(config.filter, smooth="none"))
    addresses = [*args.sources, *args.more_sources]
    if not args.no_gui:
        from manypose.app.viewer import check_display

        check_display()
    if not addresses:
        addresses = [_first_camera(args.no_gui)]
    if args.no_gui:
        return _serve(args, config, addresses)
    return _show(args, config, addresses)


def _first_camera(needed: bool) -> str:
    """Return the address of the first camera; without one, a window opens and says so."""
    from manypose.app.webcam import list_cameras

    cameras = list_cameras()
    if cameras is None:
        return "camera:0"
    if not cameras and needed:
        raise SourceError("No camera found. Plug one in, or give a video file or an address.")
    return f"camera:{cameras[0].index}" if cameras else "camera:0"


@contextlib.contextmanager
def _streaming(args: argparse.Namespace, lanes: Lanes) -> Iterator[None]:
    """Send the results of the first lane where the options say, as long as the context lasts."""
    from manypose.app.stream import streaming

    with streaming(args) as streams:
        lanes.lanes[0].sinks.extend(stream.put for stream in streams)
        try:
            yield
        finally:
            lanes.close()


def _is_camera(address: str) -> bool:
    return address.isdigit() or address.startswith("camera:")


def _show(args: argparse.Namespace, config: Config, addresses: list[str]) -> int:
    from manypose.app.lanes import Lanes, Playback
    from manypose.app.live_feed import LiveFeed
    from manypose.app.pipeline import load_engine
    from manypose.app.viewer import application

    application()  # before the threads, so that a failing display costs nothing
    from manypose.app.viewer.window import show

    playback = Playback(loop=args.loop)
    playback.waits_at_end = args.duration is None
    lanes = Lanes(addresses, config, load_engine, playback=playback)
    feed = LiveFeed(
        lanes,
        {"settings": config.as_dict()},
        record=Path(args.record) if args.record else None,
        duration_s=args.duration,
        smoothing=config.filter.preset,
        # with a camera that fails the window stays: another one can be chosen in it
        leave_on_error=not any(_is_camera(a) for a in addresses),
    )
    try:
        with _streaming(args, lanes):
            code = show(feed)
    finally:
        lanes.close()
    if (failure := feed.source_error()) is not None:
        raise failure
    if isinstance(lanes.error, ManyposeError):
        raise lanes.error
    if lanes.error is not None and not isinstance(lanes.error, Closed):
        raise lanes.error
    return code


def _serve(args: argparse.Namespace, config: Config, addresses: list[str]) -> int:
    """Run without a window; Ctrl-C and SIGTERM end it with whole files."""
    from manypose.app.lanes import Lanes, Playback
    from manypose.app.pipeline import load_engine

    playback = Playback(loop=args.loop)
    playback.paused.set()  # a recorded source waits for the network; a camera does not
    lanes = Lanes(addresses, config, load_engine, playback=playback)
    service = Service(
        lanes,
        {"settings": config.as_dict()},
        record=Path(args.record) if args.record else None,
        duration_s=args.duration,
        lines=args.format != "none",
    )
    try:
        with _streaming(args, lanes):
            return service.run()
    finally:
        service.close()


class Service:
    """Lanes without a window: results to stdout, health to stderr."""

    def __init__(
        self,
        lanes: Any,
        meta: dict[str, Any],
        *,
        record: Path | None,
        duration_s: float | None,
        lines: bool,
    ) -> None:
        self._lanes = lanes
        self._meta = meta
        self._record = record
        self._duration_s = duration_s
        self._lines = lines
        self._start_s: float | None = None

    def run(self) -> int:
        """Serve until the sources end or the time is over; returns the exit code.

        Raises:
            SourceError: no source gave a picture.
        """
        began = health = time.monotonic()
        while True:
            now = time.monotonic()
            if self._lanes.engine is not None:
                self._lanes.playback.paused.clear()
            if self._duration_s is not None and now - began >= self._duration_s:
                return 0
            if now - health >= HEALTH_S:
                health = now
                self._health(now - began)
            idle = True
            for lane in self._lanes.lanes:
                with contextlib.suppress(Closed):
                    result = lane.results.get(0.2 / len(self._lanes.lanes))
                    if result is not None:
                        idle = False
                        self._result(lane, result)
            self._start_recording()
            if self._lanes.error is not None:
                raise self._lanes.error
            if idle and self._lanes.done:
                return self._end()

    def _end(self) -> int:
        errors = [lane.error for lane in self._lanes.lanes if lane.error is not None]
        for error in errors[:-1]:
            log.error("%s", error)
        done = sum(lane.meter.numbers().done for lane in self._lanes.lanes)
        if errors and not done:
            raise errors[-1]
        if errors:
            log.error("%s", errors[-1])
            return 3
        return 0

    def _result(self, lane: Any, result: Any) -> None:
        if self._lanes.engine is None:
            return  # pictures that pass while the network is loading
        frame = result.frame
        if self._start_s is None:
            self._start_s = frame.time_s
        lane.meter.shown(frame.time_s)
        if not self._lines:
            return
        from manypose.app.formats.jsonl import frame_object

        lag_s = time.perf_counter() - frame.time_s
        line = frame_object(result)
        line["t"] = round(frame.time_s - self._start_s, 6)
        line["t_unix"] = round(time.time() - lag_s, 4)
        line["lat_ms"] = round(lag_s * 1e3, 1)
        if len(self._lanes.lanes) > 1:
            line["camera"] = lane.name
        sys.stdout.write(json.dumps(line, allow_nan=False) + "\n")
        sys.stdout.flush()

    def _start_recording(self) -> None:
        if self._record is None or self._lanes.engine is None:
            return
        from manypose.app.live_feed import start_recording

        if all(lane.meter.numbers().done for lane in self._lanes.lanes if not lane.ended):
            folder, self._record = self._record, None
            start_recording(self._lanes, self._meta, folder)

    def _health(self, uptime_s: float) -> None:
        sources = [
            source_health(
                lane.name, lane.meter.numbers(), lane.state or self._lanes.loading or "ok"
            )
            for lane in self._lanes.lanes
        ]
        engine = self._lanes.engine
        adaptive = None if engine is None else engine.adaptive
        size = None if adaptive is None else adaptive.input_size
        sys.stderr.write(health_line(uptime_s, sources, size))
        sys.stderr.flush()

    def close(self) -> None:
        """Stop all threads and finish a recording."""
        from manypose.app.live_feed import stop_recording

        self._lanes.close()
        stop_recording(self._lanes)
