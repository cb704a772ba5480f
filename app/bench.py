"""The verb ``bench``: end-to-end frames per second and latency, with milliseconds of each stage.

A video of the user's, or walkers made for it: a known number of people in a real clip, so that the
cost of each person shows. Nothing is quoted from fewer than 100 frames.
"""

from __future__ import annotations

import argparse
import contextlib
import functools
import importlib
import json
import os
import platform
import sys
import tempfile
import time
from collections.abc import Callable, Generator
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from manypose.app.config import Config
from manypose.app.finder import begun, peak_mb
from manypose.app.flow import detected
from manypose.app.options import add_settings, settings
from manypose.app.pipeline import Engine, for_live, load_detector, load_engine
from manypose.app.sources import open_source, paced
from manypose.errors import SourceError, UsageError
from manypose.pose.detector import Detector
from manypose.pose.records import Frame, FrameResult

FRAMES_MIN = 100
WARM_UP = 20  # frames run before the clock starts
_DRAWN = 20  # frames kept to measure drawing
STAGES = (
    "decode",
    "resize",
    "detect",
    "network",
    "group",
    "lift",
    "look",
    "track",
    "fit",
    "filter",
    "draw",
)
# Words that stand in the place of SOURCE and have a benchmark of their own:
# word -> (module with add_arguments(group) and run(args) -> exit code, one line of help).
SUBJECTS: dict[str, tuple[str, str]] = {
    "backbones": ("manypose.models.train.bench_backbones", "SelecSLS against its rivals"),
    "peers": ("manypose.app.bench_peers", "other people's networks against ours"),
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the verb's options."""
    words = "".join(f"; {word}: {text}" for word, (_, text) in SUBJECTS.items())
    parser.add_argument(
        "source", nargs="?", metavar="SOURCE", help="video or folder of pictures" + words
    )
    parser.add_argument(
        "--people", nargs="+", type=int, metavar="N",
        help="without SOURCE: so many generated people; several numbers give several rows"
        " (default 5)",
    )  # fmt: skip
    parser.add_argument("--frames", type=int, default=300, metavar="N", help="frames measured")
    parser.add_argument("--size", default="1920x1080", metavar="WxH", help="of the generated clip")
    parser.add_argument("--live", action="store_true", help="as from a camera: newest frame wins")
    parser.add_argument("--rate", type=int, default=60, metavar="FPS", help="of the generated clip")
    parser.add_argument(
        "--batch", type=int, default=0, metavar="N", help="recorded: frames at once"
    )
    parser.add_argument(
        "--one-process", action="store_true", help="recorded: no second process that finds people"
    )
    parser.add_argument("--json", action="store_true", help="the report as JSON on stdout")
    add_settings(
        parser, "model.name", "model.backend", "model.device", "model.precision", "model.threads",
        "model.input", "model.target_fps", "model.careful",
        "filter.preset", "camera.fov_deg",
    )  # fmt: skip
    for word, (module, _) in SUBJECTS.items():
        importlib.import_module(module).add_arguments(parser.add_argument_group(word))


def run(args: argparse.Namespace) -> int:
    """Measure and report; returns the exit code."""
    if args.source in SUBJECTS:
        code: int = importlib.import_module(SUBJECTS[args.source][0]).run(args)
        return code
    if args.frames < FRAMES_MIN:
        raise UsageError(
            f"--frames {args.frames}: fewer than {FRAMES_MIN} frames say nothing; give more"
        )
    if args.source is not None and args.people:
        raise UsageError("--people makes its own clip; leave out SOURCE or --people")
    counts = args.people or [5]
    if min(counts) < 1 or max(counts) > 20:
        raise UsageError("--people: give numbers between 1 and 20")
    config = replace(
        settings(args),
        people=replace(settings(args).people, max=max(20, settings(args).people.max)),
    )
    if args.live:
        config = for_live(config)
    if args.batch < 0:
        raise UsageError("--batch: give 0 (chosen by the engine) or more")
    if args.source is not None:
        open_source(args.source, config).close()  # what is not there is said at once
    batch = 1 if args.live else args.batch or frames_at_once(config)
    engine = load_engine(config, batch=batch)
    runs = []
    if args.source is not None:
        with _helped(engine, load_detector, config, args) as helped:
            done = measure(args.source, config, helped, args.frames, live=args.live)
        runs.append(asdict(done))
    else:
        width, height = clip_size(args.size)
        for count in counts:
            runs.append({"people": count} | _generated(count, width, height, config, engine, args))
    report = {
        "fps": runs[0]["fps"],
        "mode": "live" if args.live else "recorded",
        "source": args.source or f"{args.size} H.264 made at run time, {args.rate} frames/s",
        "runs": runs,
        "network": dict(engine.info),
        "batch": engine.batch,
        "machine": machine(),
    }
    sys.stdout.write(json.dumps(report, indent=1) + "\n" if args.json else _text(report))
    return 0


def clip_size(text: str) -> tuple[int, int]:
    """Return width and height of "1920x1080".

    Raises:
        UsageError: it is written in another way, or no size of a video.
    """
    width, x, height = text.partition("x")
    if not (x and width.isdigit() and height.isdigit()):
        raise UsageError(f"--size {text}: write it as 1920x1080")
    w, h = int(width), int(height)
    if not (64 <= w <= 7680 and 64 <= h <= 4320) or w % 2 or h % 2:
        raise UsageError(f"--size {text}: even sides between 64 and 7680 x 4320")
    return w, h


def frames_at_once(config: Config) -> int:
    """Return how many recorded frames are in work at once unless the user says."""
    from manypose.models.machine import cores

    return max(1, min(4, config.model.threads or cores()))


def _generated(
    count: int, width: int, height: int, config: Config, engine: Engine, args: argparse.Namespace
) -> dict[str, Any]:
    """Return the result for generated people."""
    from manypose.app import bench_people

    if not hasattr(engine.detector.front_end, "network"):
        raise UsageError("--people needs a network of ours; give a SOURCE for your own network")
    make = functools.partial(bench_people.walking_detector, count=count, width=width, height=height)
    detector = make(config, engine.batch, engine=engine)
    replaced: Any = detector.front_end
    look = None if engine.look is None else replaced.looking(engine.look)
    walking = replace(engine, detector=detector, look=look)
    people = bench_people.walkers(count, width, height)
    with tempfile.TemporaryDirectory() as folder, _helped(walking, make, config, args) as helped:
        clip = Path(folder) / "walkers.mp4"
        bench_people.write_clip(clip, people, 2 * bench_people.PERIOD, args.rate)
        done = measure(str(clip), config, helped, args.frames, live=args.live)
    return asdict(done)


def _helped(
    engine: Engine, load: Callable[..., Detector], config: Config, args: argparse.Namespace
) -> contextlib.AbstractContextManager[Engine]:
    """Return the engine, where it helps with the second process of `run`, and its end."""
    if args.one_process:
        return contextlib.nullcontext(engine)
    return begun(engine, load, config)


@dataclass(frozen=True, slots=True)
class Measured:
    """One run. fps: results per second; latency_ms (live): from capture to result, p50 p95 p99.

    stages_ms: per stage p50, p95, p99 and mean; draw is measured apart and is not part of fps.
    """

    fps: float
    frames: int
    seconds: float
    warm_up_frames: int
    people_per_frame: float
    cpu_ms_per_frame: float
    stages_ms: dict[str, dict[str, float]]
    latency_ms: dict[str, float] | None
    dropped: dict[str, int]
    picture: str
    peak_rss_mb: float | None
    load_average: float | None = field(default=None)


def measure(
    address: str, config: Config, engine: Engine, frames: int, *, live: bool = False
) -> Measured:
    """Run frames through the whole pipeline and return what was measured.

    Raises:
        SourceError: the source gives no frames, or fewer than `FRAMES_MIN` were done live.
    """
    follower = engine.follower()
    decode: list[float] = []
    dropped: dict[str, int] = {}
    stage_ms: list[dict[str, float]] = []
    latency: list[float] = []
    shown: list[FrameResult] = []
    people = 0
    started = cpu = 0.0
    stream = (
        _live(address, config, frames + WARM_UP, dropped)
        if live
        else _recorded(address, config, frames + WARM_UP, decode)
    )
    done = 0
    glances = engine.glances(follower) if live else None
    flow = detected(stream, engine, live=live, glances=glances)
    with contextlib.closing(flow):
        for detections, _ in flow:
            result = follower(detections)
            done += 1
            if done > WARM_UP:
                stage_ms.append(dict(result.stage_ms))
                people += len(result.people)
                if live:
                    latency.append(1e3 * (time.perf_counter() - result.frame.time_s))
                if len(shown) < _DRAWN:
                    shown.append(result)
            elif done == WARM_UP:
                dropped.clear()
                decode.clear()
                started, cpu = time.perf_counter(), _cpu_s(engine)
    seconds, cpu = time.perf_counter() - started, _cpu_s(engine) - cpu
    count = len(stage_ms)
    if count < FRAMES_MIN:
        raise SourceError(
            f"{address}: only {max(0, count)} frames were done, and fewer than {FRAMES_MIN} say "
            "nothing; give a longer --frames"
        )
    times = {name: [s[name] for s in stage_ms if name in s] for name in STAGES}
    times["decode"] = decode
    times["draw"] = _drawing(shown)
    h, w = shown[0].frame.shape
    return Measured(
        fps=round(count / seconds, 2),
        frames=count,
        seconds=round(seconds, 3),
        warm_up_frames=WARM_UP,
        people_per_frame=round(people / count, 2),
        cpu_ms_per_frame=round(1e3 * cpu / count, 2),
        stages_ms={name: _percentiles(t) for name, t in times.items() if t},
        latency_ms=_percentiles(latency) if live else None,
        dropped=dict(dropped),
        picture=f"{w}x{h}",
        peak_rss_mb=_peak_mb(engine),
        load_average=os.getloadavg()[0] if hasattr(os, "getloadavg") else None,
    )


def _percentiles(values: list[float]) -> dict[str, float]:
    p50, p95, p99 = np.percentile(values, [50, 95, 99])
    return {
        "p50": round(float(p50), 3),
        "p95": round(float(p95), 3),
        "p99": round(float(p99), 3),
        "mean": round(float(np.mean(values)), 3),
    }


def _recorded(
    address: str, config: Config, count: int, decode_ms: list[float]
) -> Generator[Frame, None, None]:
    """Yield frames of a recorded source, round and round; times of reading go into a list."""
    from manypose.app.bench_people import looped

    frames = looped(lambda: open_source(address, config), count)
    while True:
        started = time.perf_counter()
        frame = next(frames, None)
        if frame is None:
            return
        decode_ms.append(1e3 * (time.perf_counter() - started))
        yield frame


def _live(
    address: str, config: Config, count: int, dropped: dict[str, int]
) -> Generator[Frame, None, None]:
    """Yield the newest frames of a video played at its own pace, round and round."""
    done, index = 0, 0
    while done < count:
        before = done
        with paced(open_source(address, config)) as source:
            for frame in source:
                yield replace(frame, index=index + frame.index)
                done += 1
                if done == count:
                    break
            for reason, number in source.counts.dropped.items():
                dropped[reason] = dropped.get(reason, 0) + number
            index += source.counts.read
        if done == before:
            return


def _drawing(results: list[FrameResult]) -> list[float]:
    from manypose.app.overlay import draw

    spent = []
    for result in results:
        started = time.perf_counter()
        draw(result.frame.image, result.people)
        spent.append(1e3 * (time.perf_counter() - started))
    return spent


def _peak_mb(engine: Engine) -> float | None:
    """Return the most memory taken by all processes."""
    here, other = peak_mb(), 0.0 if engine.finder is None else engine.finder.peak_mb
    return None if here is None else round(here + other, 1)


def _cpu_s(engine: Engine) -> float:
    """Return the CPU time taken so far, that of the second process up to its last answer."""
    return time.process_time() + (0.0 if engine.finder is None else engine.finder.cpu_s)


def machine() -> dict[str, Any]:
    """Return what speed depends on: CPU, its vector instructions, cores, load, versions."""
    from manypose.models.machine import cores

    text = ""
    with contextlib.suppress(OSError):
        text = Path("/proc/cpuinfo").read_text()
    lines: dict[str, str] = {}
    for line in text.partition("\n\n")[0].splitlines():
        key, _, value = line.partition(":")
        lines[key.strip()] = value.strip()
    flags = lines.get("flags", lines.get("Features", "")).split()
    telling = ("avx", "amx", "asimd", "bf16", "vnni", "fma", "sve", "neon")
    return {
        "cpu": lines.get("model name", platform.processor() or platform.machine()),
        "flags": sorted(f for f in flags if any(t in f for t in telling)),
        "cores": cores(),
        "load_average": os.getloadavg()[0] if hasattr(os, "getloadavg") else None,
        "system": platform.platform(),
        "python": platform.python_version(),
    }


def _text(report: dict[str, Any]) -> str:
    """Return the report for people to read."""
    net, cpu = report["network"], report["machine"]
    lines = [
        f"{report['fps']:.1f} frames/s end to end, {report['mode']}, {report['source']}",
        f"network  {net['model']} {net['precision']}, input {net['input_size'][0]}x"
        f"{net['input_size'][1]}, {net['engine']}, {net['device']}, {net['threads']} threads, "
        f"{report['batch']} frames at once",
        f"machine  {cpu['cpu']}, {cpu['cores']} cores, load {cpu['load_average']}",
        f"         {' '.join(cpu['flags'])}",
    ]
    for one in report["runs"]:
        title = f"{one['people']} people" if "people" in one else one["picture"]
        lines.append("")
        lines.append(
            f"{title}: {one['fps']:.1f} frames/s over {one['frames']} frames, "
            f"{one['people_per_frame']} people found per frame, {one['cpu_ms_per_frame']} ms of "
            "CPU per frame"
        )
        if one["latency_ms"]:
            late = one["latency_ms"]
            lines.append(f"  latency ms  p50 {late['p50']}  p95 {late['p95']}  p99 {late['p99']}")
            lines.append(f"  dropped     {one['dropped'] or 'nothing'}")
        lines.append("  ms of         p50      p95      p99")
        for name in STAGES:
            if name in one["stages_ms"]:
                row = one["stages_ms"][name]
                apart = "  (not in frames/s)" if name == "draw" else ""
                lines.append(
                    f"  {name:8s}{row['p50']:9.2f}{row['p95']:9.2f}{row['p99']:9.2f}{apart}"
                )
    return "\n".join(lines) + "\n"
