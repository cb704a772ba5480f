"""What each stage is worth: the same people after read-out, Stage II, Stage III and the filters.

The truth is generated (`made_people`) or given as a file. Maps are drawn from it as Stage I should
answer, with errors if wanted, and the product's own grouping, lifting weights, tracker, fit and
filters run on them. Every stage is scored over the same frames by the same figures.
"""

from __future__ import annotations

import argparse
import dataclasses
import functools
import math
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from manypose.app.made_people import captured, clothes, picture, walkers
from manypose.app.motion import Motion, areas, read_motion
from manypose.app.smoothing import METHODS, smooth_joints
from manypose.app.stage_figures import Found, figures
from manypose.calib.camera import Camera
from manypose.errors import UsageError
from manypose.models.preprocess import letterbox
from manypose.pose import placement, targets
from manypose.pose import skeleton as sk
from manypose.pose.estimator import Follower, FollowerConfig
from manypose.pose.grouping import GroupingConfig, group
from manypose.pose.joints import CARRIED, JOINTS, PARENT, ROOT, TOPOLOGICAL
from manypose.pose.lifting import SIZE, Lifter, carried_bones, complete, encode, lift, ray_errors
from manypose.pose.records import Detections, Frame, NetworkOutput, Person2D, Person3D
from manypose.pose.scores_2d import oks
from manypose.pose.tracking_scores import Sightings

Float = NDArray[np.floating[Any]]
_J = len(JOINTS)
_UP = [p if p >= 0 else j for j, p in enumerate(PARENT)]
_HEIGHT, _WIDTH = 320, 512  # the network's input
_OKS_MIN = 0.5


@dataclass(frozen=True, slots=True)
class Noise:
    """Errors put on the maps: px of the network's input and metres of every bone.

    slow_m: the part that lasts about a second; the others are new in every frame.
    """

    px: float
    bone_m: float
    slow_m: float


NOISES = {"none": Noise(0, 0, 0), "little": Noise(0.6, 0.01, 0.01), "much": Noise(1.2, 0.03, 0.03)}


# Heading of the table's column -> (figure, factor, decimals)
COLUMNS: dict[str, tuple[str, float, int]] = {
    "found %": ("found_share", 100, 1),
    "MPJPE": ("mpjpe_mm", 1, 1),
    "PA": ("pa_mpjpe_mm", 1, 1),
    "hidden": ("hidden_mpjpe_mm", 1, 1),
    "jitter at rest": ("jitter_at_rest_mm", 1, 2),
    "moving": ("jitter_moving_mm", 1, 2),
    "lag ms": ("lag_ms", 1, 1),
    "foot slide mm/s": ("foot_slide_mm_s", 1, 0),
    "bones %": ("bone_spread", 100, 2),
    "root": ("root_mm", 1, 0),
    "IDF1": ("idf1", 1, 3),
    "ms": ("ms", 1, 1),
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of ``eval stages``."""
    parser.add_argument("truth", nargs="?", metavar="TRUTH",
                        help="truth of a sequence, .npz as for eval sequence (default: walkers"
                        " made by rule)")  # fmt: skip
    parser.add_argument("--people", type=int, default=4, metavar="N", help="people to make")
    parser.add_argument("--seconds", type=float, default=10.0, help="length of what is made")
    parser.add_argument(
        "--noise", choices=tuple(NOISES), default="none", help="errors put on the maps"
    )
    parser.add_argument("--standing", action="store_true",
                        help="everybody stands still as they were in the middle")  # fmt: skip
    parser.add_argument("--no-encodings", action="store_true", help="2D joints and scores alone")
    parser.add_argument("--filter", choices=("steady", "normal", "fast"), default="normal")
    parser.add_argument("--warm-up", type=float, default=2.5, metavar="S",
                        help="seconds at the start that are not scored")  # fmt: skip
    parser.add_argument("--mocap", metavar="FILE", help="captured motion (.npz), with --avatars")
    parser.add_argument("--avatars", metavar="FILE", help="bodies (.zip), with --mocap")
    parser.add_argument("--seed", type=int, default=0, help="of everything drawn at random")


def run_stages(args: argparse.Namespace) -> dict[str, Any]:
    """Return the report of ``eval stages``: what was measured, and figures by stage.

    Raises:
        UsageError: options that do not go together or make no people.
        SourceError: truth or archives cannot be read.
    """
    from manypose.models.lifter_runtime import load_lifter

    if bool(args.mocap) != bool(args.avatars):
        raise UsageError("--mocap and --avatars go together: motion needs bodies")
    if args.truth and args.mocap:
        raise UsageError("give either a truth file or --mocap, not both")
    if not 1 <= args.people <= 20:
        raise UsageError(f"--people {args.people}: it must lie between 1 and 20")
    if not 0.2 <= args.seconds <= 600:
        raise UsageError(f"--seconds {args.seconds:g}: it must lie between 0.2 and 600")
    if args.truth:
        motion = read_motion(Path(args.truth))
    elif args.mocap:
        made = Path(args.mocap), Path(args.avatars)
        motion = captured(*made, args.people, args.seconds, args.seed)
    else:
        motion = walkers(args.people, args.seconds, args.seed)
    if args.standing:
        motion = standing(motion)
    frames = len(motion.times_s)
    if not 0 <= args.warm_up < float(motion.times_s[-1] - motion.times_s[0]):
        raise UsageError(f"--warm-up {args.warm_up:g}: longer than the sequence")
    known = evaluate(
        motion, load_lifter(), NOISES[args.noise], FollowerConfig(filter=args.filter),
        args.warm_up, args.seed, encodings=not args.no_encodings,
    )  # fmt: skip
    return {
        "sequence": motion.name, "people": motion.joints_m.shape[1], "frames": frames,
        "noise": dataclasses.asdict(NOISES[args.noise]),
        "stature_m": float(np.nanmean(statures_m(motion))),
        "warm_up_s": args.warm_up, "known": known,
    }  # fmt: skip


def tell(report: Mapping[str, Any], console: Any) -> None:
    """Print the report as a table for each state of knowledge."""
    from rich.table import Table

    noise = report["noise"]
    console.print(
        f"{report['sequence']}: {report['people']} people, {report['frames']} frames; errors of"
        f" the maps {noise['px']:g} px, {1000 * noise['bone_m']:g} + {1000 * noise['slow_m']:g} mm",
        highlight=False,
    )
    for known, rows in report["known"].items():
        table = Table(box=None, pad_edge=False, header_style="bold")
        table.add_column(f"known: {known}", no_wrap=True)
        for head in COLUMNS:
            table.add_column(head, justify="right")
        for name, row in rows.items():
            cells = []
            for key, factor, decimals in COLUMNS.values():
                value = row[key]
                cells.append("-" if math.isnan(value) else f"{factor * value:.{decimals}f}")
            table.add_row(name, *cells)
        console.print(table)
    console.print(
        "mm where no unit is given; hidden: joints out of sight; moving: jitter of the error of"
        " fast joints; ms: CPU time of the Follower for a frame", highlight=False,
    )  # fmt: skip


def size_of(motion: Motion) -> tuple[int, int]:
    """Return width and height of the pictures, the principal point being in the middle."""
    return round(2 * float(motion.K[0, 2]) + 1), round(2 * float(motion.K[1, 2]) + 1)


def standing(motion: Motion) -> Motion:
    """Return people who stand still as they were in the middle frame, for as long."""
    middle = np.full(len(motion.times_s), len(motion.times_s) // 2)
    kept = {k: getattr(motion, k)[middle] for k in ("joints_m", "joints_px", "seen")}
    return dataclasses.replace(motion, name=f"{motion.name}, standing still", **kept)


def found_in_maps(motion: Motion, noise: Noise, seed: int = 0) -> list[list[Person2D]]:
    """Return for every frame the people grouped from maps drawn of the truth."""
    rng = np.random.default_rng(seed)
    width, height = size_of(motion)
    affine = letterbox(np.zeros((height, width, 3), np.uint8), _HEIGHT, _WIDTH)[1]
    step = float(np.median(np.diff(motion.times_s)))
    keep = math.exp(-step)
    people = motion.joints_m.shape[1]
    slow = rng.normal(0, noise.slow_m, (people, _J, 3))
    limits = GroupingConfig(people_max=max(20, people))
    result = []
    for n in range(len(motion.joints_m)):
        fresh = rng.normal(0, noise.slow_m, slow.shape)
        slow = keep * slow + math.sqrt(1 - keep**2) * fresh
        there = motion.seen[n].any(1)
        px = motion.joints_px[n, there]
        cells = (px - affine[:, 2]) / affine[[0, 1], [0, 1]]
        at = targets.cells_to_px(cells) + rng.normal(0, 1, cells.shape) * noise.px
        flagged = np.concatenate([at, motion.seen[n, there][..., None]], -1)
        bones = motion.joints_m[n, there] - motion.joints_m[n, there][:, _UP]
        bones = bones + slow[there] + rng.normal(0, 1, bones.shape) * noise.bone_m
        heatmaps, pafs, encodings = targets.draw(flagged, _HEIGHT, _WIDTH, bones)
        carried = None if encodings is None else encodings.astype(np.float32)
        maps = NetworkOutput(heatmaps.astype(np.float32), pafs.astype(np.float32), carried, affine)
        result.append(group(maps, limits))
    return result


def read_out(people: list[Person2D], camera: Camera) -> list[Person3D]:
    """Return people as Stage I alone shows them: chains of the bones read, NaN where one lacks."""
    bones = carried_bones(people)
    if bones is None:
        raise ValueError("read_out: people without encodings")
    joint_of = np.array([j for _, j in CARRIED])
    chained = np.full((len(people), _J, 3), np.nan)
    chained[:, ROOT] = 0
    for j in TOPOLOGICAL[1:]:
        read = bones[:, joint_of == j]
        there: NDArray[np.bool_] = np.asarray(np.isfinite(read).all(-1))
        mean = np.where(there[..., None], read, 0).sum(1) / np.maximum(there.sum(1), 1)[:, None]
        bone = np.where((there.sum(1) > 0)[:, None], mean, np.nan)
        chained[:, j] = chained[:, PARENT[j]] + bone
    px = np.stack([p.joints_px for p in people]).astype(float)
    score = np.stack([p.confidence for p in people]).astype(float)
    rays, score = complete(camera.image_to_rays(px)[..., :2], score)
    size = np.exp(encode(rays, score, None)[0][:, SIZE].astype(float) - 2.0)
    known = np.isfinite(chained).all(-1)
    sigma = np.where(known, 0.03, 2.0)
    root, far = placement.place(np.where(known[..., None], chained, 0), sigma, rays,
                                ray_errors(score, size))  # fmt: skip
    return [
        Person3D(p, c, s, r, float(f))
        for p, c, s, r, f in zip(people, chained, sigma, root, far, strict=True)
    ]


def _place_people(
    motion: Motion, frame: int, found_px: Float, found_m: Float, ids: NDArray[Any], out: Float
) -> Sightings:
    """Write the found joints (N, J, 3) to the true people they belong to, by their 2D joints."""
    from scipy.optimize import linear_sum_assignment

    there = np.flatnonzero(motion.seen[frame].any(1))
    labelled = motion.seen[frame, there][..., None]
    people = np.concatenate([np.nan_to_num(motion.joints_px[frame, there]), labelled], -1)
    alike = np.nan_to_num(oks(found_px, people, areas(people)).T)
    for p, q in zip(*linear_sum_assignment(-alike)):
        if alike[p, q] >= _OKS_MIN:
            out[frame, there[p]] = found_m[q]
    return Sightings(there, ids, alike)


def single(motion: Motion, frames: list[list[Person3D]]) -> Found:
    """Return people of single frames, not followed, beside the true ones."""
    out = np.full(motion.joints_m.shape, np.nan)
    for n, people in enumerate(frames):
        if people:
            px = np.stack([p.seen.joints_px for p in people]).astype(float)
            found = np.stack([p.joints_rel_m + p.root_m for p in people])
            _place_people(motion, n, px, found, np.arange(len(people)), out)
    return Found(out)


def followed(
    motion: Motion, frames: list[list[Person3D]], camera: Camera, config: FollowerConfig,
    seed: int = 0, lifter: Lifter | None = None,
) -> Found:  # fmt: skip
    """Return people tracked, fitted and filtered, beside the true ones."""
    dress = clothes(motion.joints_m.shape[1], seed)
    follower = Follower(config, functools.partial(lift, lifter=lifter) if lifter else None)
    out = np.full(motion.joints_m.shape, np.nan)
    sightings, spent = [], 0.0
    for n, people in enumerate(frames):
        image = picture(motion, n, camera.width, camera.height, dress)
        frame = Frame(image, float(motion.times_s[n]), n, camera)
        start = time.process_time()
        result = follower(Detections(frame, tuple(people)))
        spent += time.process_time() - start
        px = np.array([p.joints_px for p in result.people]).reshape(-1, sk.POINT_OF_2D.size, 2)
        found = np.array([p.joints_m for p in result.people]).reshape(-1, _J, 3)
        ids = np.array([p.track_id for p in result.people], int)
        sightings.append(_place_people(motion, n, px, found, ids, out))
    return Found(out, sightings, 1e3 * spent / max(len(frames), 1))


def smoothed(found: Found, times_s: Float, how: str) -> Found:
    """Return the same people after zero-phase smoothing, as for recordings."""
    out = found.joints_m.copy()
    for p in range(out.shape[1]):
        out[:, p] = smooth_joints(out[:, p], times_s, how)
    return Found(out, found.sightings)


def statures_m(motion: Motion) -> Float:
    """Return the standing heights (P,) of the people, from their bones."""
    bones = np.linalg.norm(motion.joints_m - motion.joints_m[:, :, _UP], axis=-1)
    return np.asarray(sk.stature_m(np.nanmedian(bones, axis=0)))


def grown(found: Found, factors: Float) -> Found:
    """Return the same people rescaled about the camera, as the verb ``rescale`` does it."""
    return dataclasses.replace(found, joints_m=found.joints_m * factors[:, None, None])


def evaluate(
    motion: Motion, lifter: Lifter, noise: Noise, config: FollowerConfig, warm_up_s: float = 2.5,
    seed: int = 0, encodings: bool = True,
) -> dict[str, dict[str, dict[str, float]]]:  # fmt: skip
    """Return {what is known: {stage: figures}}, known: "camera and height", "neither".

    encodings: whether the maps have any; without, there is no read-out. Known height means that of
    each person: the mean is given to the Follower, and everybody rescaled to their own.
    """
    width, height = size_of(motion)
    people2d = found_in_maps(motion, noise, seed)
    if not encodings:
        people2d = [[dataclasses.replace(p, encoding=None) for p in f] for f in people2d]
    true = Camera(motion.K, width, height, source="calibrated")
    guess = Camera.from_fov(width, height)
    report: dict[str, dict[str, dict[str, float]]] = {}
    score = functools.partial(figures, motion=motion, warm_up_s=warm_up_s)
    tall = statures_m(motion)
    mean = float(np.nanmean(tall))
    cases: tuple[tuple[str, Camera, float | None, Float], ...] = (
        ("camera and height", true, mean, tall / mean),
        ("neither", guess, None, np.ones(len(tall))),
    )
    for name, camera, given, factors in cases:
        rows: dict[str, dict[str, float]] = {}
        if encodings:
            rows["read-out"] = score(
                single(motion, [read_out(f, camera) if f else [] for f in people2d])
            )
        lifted = [lift(f, camera, lifter) for f in people2d]
        rows["+ II"] = score(single(motion, lifted))
        known = dataclasses.replace(config, height_m=given, people_max=max(20, len(motion.seen[0])))
        later: dict[str, dict[str, Any]] = {
            "+ III": {"filter": "off", "contact": False},
            f"+ filter {config.filter}": {"contact": False},
            "+ feet held": {},
        }
        after = {}
        for stage, changes in later.items():
            settings = dataclasses.replace(known, **changes)
            after[stage] = grown(followed(motion, lifted, camera, settings, seed, lifter), factors)
            rows[stage] = score(after[stage])
        for how in METHODS[1:]:
            rows[f"III + {how}"] = score(smoothed(after["+ III"], motion.times_s, how))
        report[name] = rows
    return report
