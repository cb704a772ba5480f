"""The subject ``bench peers``: our network against other people's, in turns on the same clip.

Every contender gets the same generated people: its networks run on every frame with all the work so
many people ask of them, and then the people's true joints take the place of what it found, so that
all lift and follow the same. A network's time does not depend on what it sees.

A peer is a description of a network of one's own (.toml, docs/own_networks.md), or the bare file of
a bottom-up network (.onnx, .xml): its picture is scaled and run, and our grouping stands for its
own.
"""

from __future__ import annotations

import argparse
import contextlib
import functools
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from manypose.app import bench_people
from manypose.app.config import Config
from manypose.app.flow import detected
from manypose.app.options import settings
from manypose.app.pipeline import Engine, load_engine
from manypose.app.sources import open_source
from manypose.errors import UsageError, WeightsError
from manypose.pose.grouping import GroupingConfig, group
from manypose.pose.records import Found2D, Frame, FrontEnd, NetworkOutput, Person2D

_COUNTS = (1, 5, 10)
_ROUNDS, _FRAMES, _WARM_UP = 3, 60, 8


@dataclass(frozen=True, slots=True, eq=False)
class _Truth:
    """What the people of the clip look like: maps on our grid and joints, by frame."""

    outputs: Sequence[NetworkOutput]
    people: Sequence[tuple[Person2D, ...]]

    def of(self, frame: Frame) -> tuple[Person2D, ...]:
        return self.people[frame.index % len(self.people)]


# From the truth of a clip to a front end that does all its work on it.
_Maker = Callable[[_Truth], FrontEnd]


@dataclass(frozen=True, slots=True, eq=False)
class _Contender:
    name: str
    engine: Engine
    maker: _Maker


def add_arguments(parser: Any) -> None:
    """Add the subject's options; people, frames, size and the network's are those of bench."""
    parser.add_argument(
        "--against", nargs="+", type=Path, metavar="FILE", default=[],
        help="peers: .toml of networks of your own, or files of bottom-up networks",
    )  # fmt: skip
    parser.add_argument("--turns", type=int, default=_ROUNDS, metavar="N", help="of each contender")


def run(args: argparse.Namespace) -> int:
    """Measure and report; returns the exit code."""
    from manypose.app.bench import clip_size, frames_at_once, machine

    if not args.against:
        raise UsageError("bench peers needs peers: --against FILE...; see docs/speed.md")
    counts = args.people or list(_COUNTS)
    if min(counts) < 1 or max(counts) > 20 or args.turns < 1:
        raise UsageError("--people: give numbers between 1 and 20; --turns: at least 1")
    width, height = clip_size(args.size)
    config = settings(args)
    config = replace(config, people=replace(config.people, max=max(20, config.people.max)))
    batch = args.batch or frames_at_once(config)
    engine = load_engine(config, batch=batch)
    if not hasattr(engine.detector.front_end, "network"):
        raise UsageError("--model: give a network of ours; those of your own go to --against")
    limits = GroupingConfig(people_max=config.people.max)
    contenders = [_Contender(str(engine.info["model"]), engine, _ours(engine, limits))]
    contenders += [_peer(path, config, engine, batch, limits) for path in args.against]
    frames = args.frames if args.frames != 300 else _FRAMES
    rows = []
    for count in counts:
        people = bench_people.walkers(count, width, height)
        size = engine.info["input_size"]
        maps = bench_people.perfect_maps(people, *size, encodings=config.fit.encodings)
        truth = _Truth(maps, [tuple(group(m, limits)) for m in maps])
        with tempfile.TemporaryDirectory() as folder:
            clip = Path(folder) / "walkers.mp4"
            bench_people.write_clip(clip, people, 2 * bench_people.PERIOD, args.rate)
            rows += _turns(count, str(clip), config, contenders, truth, frames, args.turns)
    report = {"machine": machine(), "clip": f"{width}x{height}", "rows": rows}
    sys.stdout.write(json.dumps(report, indent=1) + "\n" if args.json else _text(report))
    return 0


def _ours(engine: Engine, limits: GroupingConfig) -> _Maker:
    front_end = engine.detector.front_end
    return lambda truth: bench_people.Replaced(front_end, truth.outputs, limits.people_max)


def _peer(
    path: Path, config: Config, ours: Engine, batch: int, limits: GroupingConfig
) -> _Contender:
    if path.suffix.lower() == ".toml":
        from manypose.models import topdown

        model = config.model
        own = topdown.load(path, model.backend, model.device, model.threads, batch=batch)
        info = {"model": path.stem, "engine": own.info.engine}
        engine = replace(ours, info=info, batch=own.batch, parallel=own.parallel)
        return _Contender(path.stem, engine, functools.partial(_top_down, own))
    find, engine_name, parallel = _bottom_up(path, config, batch, limits)
    info = {"model": path.stem, "engine": engine_name}
    engine = replace(ours, info=info, batch=batch if parallel else 1, parallel=parallel)
    return _Contender(path.stem, engine, find)


def _top_down(own: Any, truth: _Truth) -> FrontEnd:
    """Return a front end that detects, then looks at a crop of each true person."""
    from manypose.models.topdown import find_boxes, find_joints

    def find(frames: Sequence[Frame]) -> list[Found2D]:
        started = time.perf_counter()
        if own.detector is None:
            own(frames)
        else:
            session, limits = own.detector
            pose_session, pose = own.pose
            boxes = []
            for frame in frames:
                find_boxes(session, limits, frame.image)
                boxes.append(np.array([_box(p) for p in truth.of(frame)]))
            find_joints(pose_session, pose, [f.image for f in frames], boxes)
        ms = 1e3 * (time.perf_counter() - started) / len(frames)
        return [Found2D(truth.of(f), {"network": ms}) for f in frames]

    return find


def _box(person: Person2D) -> list[float]:
    low, high = np.nanmin(person.joints_px, 0), np.nanmax(person.joints_px, 0)
    return [*low.tolist(), *high.tolist(), 1.0]


def _bottom_up(
    path: Path, config: Config, batch: int, limits: GroupingConfig
) -> tuple[_Maker, str, bool]:
    """Return what makes the front end of a file of maps, its engine, and if it runs in parallel."""
    from manypose.models import backends, onnx_file
    from manypose.models.machine import cores
    from manypose.models.sessions import Wish, open_session

    if not path.is_file():
        raise WeightsError(f"{path}: no such file; give the network of a peer")
    threads = config.model.threads or cores()
    described = onnx_file.describe(path) if path.suffix.lower() == ".onnx" else None
    ours = described is not None and "manypose.input" in described.metadata
    size = backends.input_size(path) if ours else None  # otherwise the file has one
    wish = Wish("cpu", threads, "fp32", batch, size)
    session = open_session(path, config.model.backend, wish)
    tensor = session.inputs[0]
    shape = [1 if d is None else d for d in tensor.shape]
    picture = len(shape) == 4 and 3 in (shape[1], shape[3]) and shape[2] >= 32
    if not picture:
        raise WeightsError(
            f"{path}: its input {list(tensor.shape)} is no picture of a fixed size; export it anew"
        )
    planes = shape[1] == 3
    h, w = shape[2:] if planes else shape[1:3]
    kind = np.uint8 if tensor.type == 2 else np.float32

    def maker(truth: _Truth) -> FrontEnd:
        def find(frames: Sequence[Frame]) -> list[Found2D]:
            found = []
            for frame in frames:
                started = time.perf_counter()
                small = cv2.resize(frame.image, (w, h))[None]
                x = np.ascontiguousarray(small.transpose(0, 3, 1, 2) if planes else small, kind)
                session.run(x)
                ran = time.perf_counter()
                group(truth.outputs[frame.index % len(truth.outputs)], limits)
                spent = {
                    "network": 1e3 * (ran - started),
                    "group": 1e3 * (time.perf_counter() - ran),
                }
                found.append(Found2D(truth.of(frame), spent))
            return found

        return find

    return maker, session.engine, session.parallel


def _turns(
    count: int, clip: str, config: Config, contenders: Sequence[_Contender], truth: _Truth,
    frames: int, turns: int,
) -> list[dict[str, Any]]:  # fmt: skip
    """Return a row of each contender: medians over its turns."""
    spent: list[list[tuple[float, float]]] = [[] for _ in contenders]
    for _ in range(turns):
        for one, times in zip(contenders, spent):
            detector = one.engine.detector.finding(one.maker(truth))
            times.append(_once(clip, config, replace(one.engine, detector=detector), frames))
    rows: list[dict[str, Any]] = []
    for one, times in zip(contenders, spent):
        rate, cpu = (statistics.median(column) for column in zip(*times))
        first = rows[0] if rows else None
        rows.append({
            "people": count,
            "name": one.name,
            "engine": one.engine.info["engine"],
            "fps": round(rate, 2),
            "cpu_ms_per_frame": round(cpu, 2),
            "ours_is_faster": round(first["fps"] / rate, 2) if first else 1.0,
            "ours_takes_less_cpu": round(cpu / first["cpu_ms_per_frame"], 2) if first else 1.0,
        })  # fmt: skip
    return rows


def _once(clip: str, config: Config, engine: Engine, frames: int) -> tuple[float, float]:
    """Return frames per second and CPU milliseconds per frame, from decoding to followed people."""
    follower = engine.follower()
    stream = bench_people.looped(lambda: open_source(clip, config), frames + _WARM_UP)
    started = cpu = 0.0
    flow = detected(stream, engine)
    with contextlib.closing(flow):
        for n, (detections, _) in enumerate(flow):
            if n == _WARM_UP:
                started, cpu = time.perf_counter(), time.process_time()
            follower(detections)
    return (
        frames / (time.perf_counter() - started),
        1e3 * (time.process_time() - cpu) / frames,
    )


def _text(report: dict[str, Any]) -> str:
    cpu = report["machine"]
    lines = [
        f"{report['clip']}, {cpu['cpu']}, {cpu['cores']} cores, load {cpu['load_average']}",
        "",
        "| people | network | engine | frames/s | CPU ms a frame | ours: times the frames/s | "
        "ours: times less CPU |",
        "| --- | --- | --- | --- | --- | --- | --- |",
    ]
    keys = (
        "people", "name", "engine", "fps", "cpu_ms_per_frame", "ours_is_faster",
        "ours_takes_less_cpu",
    )  # fmt: skip
    lines += ["| " + " | ".join(str(row[k]) for k in keys) + " |" for row in report["rows"]]
    return "\n".join(lines) + "\n"
