"""Print the tables of docs/accuracy.md that depend on the weights of Stage I or on the cameras.

    python -m tests.accuracy [--truth3d FOLDER] [--model NAME|FILE] [--sequence CLIP TRUTH]...
    python -m tests.accuracy --stages [--model NAME|FILE] [--sequence CLIP TRUTH]
    python -m tests.accuracy --crowd PART [--model NAME|FILE]
    python -m tests.accuracy --place

All but --place take --careful, three looks at every frame.

The first runs the program as a user does, on the pictures of a folder with an annotations.json
(each on its own) and on clips with the truth of every frame; by default the sample clip. Everything
is run with the encodings of Stage I and from its 2D joints alone, so that the better one can be the
default (`fit.encodings`). About a minute of one core.

--stages prints what each stage is worth on what the network finds in the clip (20 s). --crowd
takes a rendered sequence (`manypose train render --sequence`) and prints identity at perfect maps
and with the network (a minute for 180 pictures of ten people). --place prints how far off people
stand when the camera, their heights, both or neither are known, at perfect maps (two minutes).
"""

from __future__ import annotations

import argparse
import contextlib
import functools
import io
import json
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from manypose.app import accuracy, stages
from manypose.app.config import load_config
from manypose.app.formats.reading import load_run
from manypose.app.main import main
from manypose.app.motion import Motion, read_motion
from manypose.app.pipeline import Engine, lifting, load_engine
from manypose.app.sources import open_source
from manypose.app.stage_figures import Found, figures
from manypose.app.truth import read_truth3d
from manypose.calib.camera import Camera
from manypose.calib.files import write_cameras
from manypose.models.lifter_runtime import load_lifter
from manypose.pose.detector import Detector
from manypose.pose.estimator import Follower, FollowerConfig
from manypose.pose.joints import JOINTS, JOINTS_2D, ROOT
from manypose.pose.lifting import lift as lift_people
from manypose.pose.records import Detections, Frame
from manypose.pose.tracking_scores import tracking_scores

HERE = Path(__file__).parent
SAMPLE = (HERE.parent / "app" / "sample.mp4", HERE / "golden" / "sample_truth.npz")


def answer(*words: object) -> Any:
    """Return what a command prints as JSON; its progress is not shown."""
    out = io.StringIO()
    with contextlib.redirect_stdout(out):
        code = main([str(w) for w in words])
    if code not in (0, 3):
        raise SystemExit(f"manypose {' '.join(map(str, words))} ended with {code}")
    text = out.getvalue()
    return json.loads(text) if text.lstrip().startswith("{") else text


def run(source: Path, folder: Path, options: list[str], *words: str) -> Path:
    """Run the program on pictures or a clip; returns the folder of the results."""
    answer("run", source, "-o", folder, "--no-gui", "--quiet", "--overwrite", *options, *words)
    return next(p.parent for p in folder.rglob("pose.npz"))


def row(name: str, *cells: tuple[float | None, str]) -> None:
    shown = ["-" if v is None else form.format(v) for v, form in cells]
    sys.stdout.write(f"| {name} | {' | '.join(shown)} |\n")
    sys.stdout.flush()


def pictures(folder: Path, options: list[str], work: Path) -> None:
    """One row for each way of lifting, on labelled pictures."""
    sys.stdout.write(
        f"\n{folder.name}, every picture on its own\n\n"
        "| 3D from | found | invented | MPJPE mm | after Procrustes mm | 3DPCK@150 of the found |"
        " root, true camera mm |\n|---|---|---|---|---|---|---|\n"
    )
    for name, value in (("2D and encodings", "true"), ("2D alone", "false")):
        source = folder / "images" if (folder / "images").is_dir() else folder
        results = run(source, work / f"pictures_{value}", options, "--still",
                      "--set", f"fit.encodings={value}")  # fmt: skip
        figures = next(iter(answer("eval", "truth3d", folder, results, "--json")["sets"].values()))
        _picture_row(name, figures)


def known_cameras(folder: Path, options: list[str], work: Path) -> None:
    """One row for labelled pictures whose cameras are known, and with them where up is."""
    whole = read_truth3d(folder)
    document = json.loads((folder / "annotations.json").read_text("utf-8"))
    parts = []
    for name in sorted({p["camera"] for p in document["images"]}):
        taken = [p for p in document["images"] if p["camera"] == name]
        (work / name).mkdir()
        for p in taken:
            (work / name / Path(p["file"]).name).symlink_to((folder / p["file"]).resolve())
        fx, fy, cx, cy = taken[0]["K"]
        R = np.array(taken[0]["R"])
        if R[1, 1] > 0:  # y downwards in this world
            R = R @ np.diag([1.0, -1.0, -1.0])
        if R[1, 2] < 0:  # z from the people to the camera, as in worlds of manypose calibrate
            R = R @ np.diag([-1.0, 1.0, -1.0])
        camera = Camera(
            np.array([[fx, 0, cx], [0, fy, cy], [0, 0, 1.0]]), taken[0]["width"],
            taken[0]["height"], R=R, t=np.array(taken[0]["t"]) / 1000, source="calibrated",
        )  # fmt: skip
        write_cameras(work / f"{name}.toml", {name: camera})
        results = run(work / name, work / f"of_{name}", options, "--still",
                      "--camera", str(work / f"{name}.toml"))  # fmt: skip
        frames = {Path(p["file"]).stem: whole.frames[Path(p["file"]).stem] for p in taken}
        parts.append(accuracy.pair_up(load_run(results), replace(whole, frames=frames)))
    _picture_row("2D and encodings, cameras known", accuracy.figures(accuracy.pooled(parts)))


def _picture_row(name: str, figures: dict[str, Any]) -> None:
    row(
        name, (100 * figures["found_share"], "{:.0f} %"), (figures["surplus_people"], "{:.0f}"),
        (figures["mpjpe_mm"], "{:.0f}"), (figures["pa_mpjpe_mm"], "{:.0f}"),
        (100 * figures["pck_matched"], "{:.0f} %"), (figures["root_true_camera_mm"], "{:.0f}"),
    )  # fmt: skip


def clip(video: Path, truth: Path, options: list[str], work: Path) -> None:
    """One row for each way of lifting, on a clip with the truth of every frame."""
    sys.stdout.write(
        f"\n{video.name}\n\n| 3D from | found | MPJPE mm | after Procrustes mm | root mm | IDF1 |"
        " HOTA | jitter at rest mm | foot slide mm/s |\n|---|---|---|---|---|---|---|---|---|\n"
    )
    for name, value in (("2D and encodings", "true"), ("2D alone", "false")):
        results = run(video, work / f"{video.stem}_{value}", options,
                      "--set", f"fit.encodings={value}")  # fmt: skip
        report = answer("eval", "sequence", truth, results, "--json")
        figures, motion = next(iter(report["sets"].values())), report["motion"]
        row(
            name, (100 * figures["found_share"], "{:.0f} %"), (figures["mpjpe_mm"], "{:.0f}"),
            (figures["pa_mpjpe_mm"], "{:.0f}"), (figures["root_mm"], "{:.0f}"),
            (motion["IDF1"], "{:.2f}"), (motion["HOTA"], "{:.2f}"),
            (motion["jitter_at_rest_mm"], "{:.1f}"), (motion["foot_slide_mm_s"], "{:.0f}"),
        )  # fmt: skip


def followed(
    motion: Motion, found: list[Detections], config: FollowerConfig, engine: Engine
) -> Found:
    """Return what a Follower makes of detections, beside the true people."""
    follower = Follower(config, engine.lift, engine.look)
    out, sightings = np.full(motion.joints_m.shape, np.nan), []
    for n, detections in enumerate(found):
        people = follower(detections).people
        px = np.array([p.joints_px for p in people]).reshape(-1, len(JOINTS_2D), 2)
        joints = np.array([p.joints_m for p in people]).reshape(-1, len(JOINTS), 3)
        ids = np.array([p.track_id for p in people], int)
        sightings.append(stages._place_people(motion, n, px, joints, ids, out))
    return Found(out, sightings)


def by_stage(video: Path, truth: Path, engine: Engine) -> None:
    """One row for each stage, on what the network finds in a clip; everything is guessed."""
    motion = read_motion(truth)
    with contextlib.closing(open_source(str(video), load_config())) as source:
        found = [engine.detector([frame])[0] for frame in source]
    sys.stdout.write(
        f"\n{video.name}, stage by stage\n\n| after | found | MPJPE mm | hidden joints mm |"
        " jitter at rest mm | lag ms | foot slide mm/s | bone spread % | root mm | IDF1 |\n"
        "|---|---|---|---|---|---|---|---|---|---|\n"
    )
    read = [stages.read_out([p.seen for p in d.people], d.frame.camera) if d.people else []
            for d in found]  # fmt: skip
    settings = {
        "+ Stage III": FollowerConfig(filter="off", contact=False),
        "+ filter `normal`": FollowerConfig(contact=False),
        "+ feet held (as shipped)": FollowerConfig(),
    }
    rows = {
        "reading the maps": stages.single(motion, read),
        "+ Stage II": stages.single(motion, [list(d.people) for d in found]),
    } | {name: followed(motion, found, config, engine) for name, config in settings.items()}
    for how in ("kalman", "adaptive"):
        title = f"Stage III, `--smooth {how}`"
        rows[title] = stages.smoothed(rows["+ Stage III"], motion.times_s, how)
    for name, stage in rows.items():
        f = {k: v if np.isfinite(v) else None for k, v in figures(stage, motion, 1.0).items()}
        spread = f["bone_spread"]
        row(
            name, (100 * (f["found_share"] or 0), "{:.0f} %"), (f["mpjpe_mm"], "{:.0f}"),
            (f["hidden_mpjpe_mm"], "{:.0f}"), (f["jitter_at_rest_mm"], "{:.1f}"),
            (f["lag_ms"], "{:.1f}"), (f["foot_slide_mm_s"], "{:.0f}"),
            (None if spread is None else 100 * spread, "{:.2f}"), (f["root_mm"], "{:.0f}"),
            (f["idf1"], "{:.2f}"),
        )  # fmt: skip


def rendered(part: Path) -> tuple[Motion, list[Frame]]:
    """Return the truth and the frames of a rendered sequence."""
    from manypose.models.train.synth.pack import read_part

    pictures = list(read_part(part))
    people = 1 + max(int(p.slot.max()) for p in pictures)
    px = np.full((len(pictures), people, len(JOINTS_2D), 2), np.nan)
    joints = np.full((len(pictures), people, len(JOINTS), 3), np.nan)
    seen = np.zeros(px.shape[:3], bool)
    for n, p in enumerate(pictures):
        px[n, p.slot], joints[n, p.slot], seen[n, p.slot] = p.joints_px, p.joints_m, p.seen == 2
    K = pictures[0].K.astype(float)
    motion = Motion(part.stem, joints, px, seen, K, np.arange(len(pictures)) / 30)
    height, width = pictures[0].image.shape[:2]
    frames = [Frame(p.image, n / 30, n, Camera.from_fov(width, height))
              for n, p in enumerate(pictures)]  # fmt: skip
    return motion, frames


def crowd(part: Path, engine: Engine) -> None:
    """Identity in a rendered sequence, at perfect maps and with the network."""
    motion, frames = rendered(part)
    people = motion.seen.shape[1]
    lifter = functools.partial(lift_people, lifter=load_lifter())
    perfect = (
        Detections(f, tuple(lifter(found, f.camera)))
        for f, found in zip(frames, stages.found_in_maps(motion, stages.NOISES["none"]))
    )
    asked: Iterator[Detections] = (engine.detector([f])[0] for f in frames)
    there = motion.seen.any(-1).sum(1).mean()
    sys.stdout.write(
        f"\n{part.stem}: {people} people, {there:.1f} in view\n\n"
        "| from | people a frame | ids | IDF1 | HOTA |\n|---|---|---|---|---|\n"
    )
    blind = replace(engine, look=None)  # the pictures say less than the maps
    for name, found, how in (("perfect maps", perfect, blind), ("the network", asked, engine)):
        seen_by = followed(motion, list(found), FollowerConfig(), how).sightings or []
        ids = [set(s.found_ids.tolist()) for s in seen_by]
        scores = tracking_scores(seen_by)
        row(
            name, (float(np.mean([len(i) for i in ids])), "{:.1f}"),
            (len(set().union(*ids)), "{:d}"), (scores["IDF1"], "{:.2f}"),
            (scores["HOTA"], "{:.2f}"),
        )  # fmt: skip


def places() -> None:
    """How far off people stand, and how much too far, by what is known."""
    lifter = load_lifter()
    sys.stdout.write(
        "\n| sequence | known | body, % of the true size | focal length, % | expected: % too far |"
        " found: % too far | root mm |\n|---|---|---|---|---|---|---|\n"
    )
    for motion, noise in (
        (stages.walkers(2, 4.0), "little"),
        (read_motion(SAMPLE[1]), "none"),
    ):
        width, height = stages.size_of(motion)
        found = stages.found_in_maps(motion, stages.NOISES[noise])
        tall = stages.statures_m(motion)
        mean = float(np.nanmean(tall))
        true = Camera(motion.K, width, height, source="calibrated")
        guess = Camera.from_fov(width, height)
        for known, camera, given in (
            ("camera and height", true, mean),
            ("camera", true, None),
            ("height", guess, mean),
            ("neither", guess, None),
        ):
            people = [lift_people(f, camera, lifter) for f in found]
            config = FollowerConfig(filter="off", height_m=given)
            got = stages.followed(motion, people, camera, config)
            if given:
                got = stages.grown(got, tall / mean)
            up = stages._UP
            bones = np.linalg.norm(got.joints_m - got.joints_m[:, :, up], axis=-1)
            size = np.nanmean(stages.sk.stature_m(np.nanmedian(bones, axis=0)) / tall) - 1
            focal = camera.K[0, 0] / motion.K[0, 0] - 1
            roots, truth = got.joints_m[:, :, ROOT], motion.joints_m[:, :, ROOT]
            far = np.nanmean(roots[..., 2] / truth[..., 2]) - 1
            row(
                f"{motion.name} | {known}", (100 * size, "{:+.1f}"), (100 * focal, "{:+.1f}"),
                (100 * ((1 + size) * (1 + focal) - 1), "{:+.1f}"), (100 * far, "{:+.1f}"),
                (1000 * float(np.nanmean(np.linalg.norm(roots - truth, axis=-1))), "{:.0f}"),
            )  # fmt: skip


def tables() -> int:
    """Run everything; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--truth3d", type=Path, metavar="FOLDER")
    parser.add_argument("--model", default="light", metavar="NAME|FILE")
    parser.add_argument("--sequence", nargs=2, type=Path, action="append", metavar="FILE")
    parser.add_argument("--threads", default="1", metavar="N")
    parser.add_argument("--careful", action="store_true", help="three looks at every frame")
    parser.add_argument("--stages", action="store_true", help="stage by stage, with the network")
    parser.add_argument("--crowd", type=Path, metavar="PART", help="a rendered sequence")
    parser.add_argument("--place", action="store_true", help="where people stand, perfect maps")
    args = parser.parse_args()
    if args.place:
        places()
        return 0
    if args.stages or args.crowd:
        settings = [("model.name", args.model), ("model.threads", args.threads)]
        settings += [("model.careful", "true")] if args.careful else []
        # the first row reads encodings; everything after it does as the program does by default
        whole = load_engine(load_config([*settings, ("fit.encodings", "true")]))
        lift = lifting(load_config(settings))
        engine = replace(whole, detector=Detector(whole.detector.front_end, lift), lift=lift)
        if args.crowd:
            crowd(args.crowd, engine)
        else:
            by_stage(*(args.sequence or [SAMPLE])[0], engine)
        return 0
    options = ["--model", args.model, "--threads", args.threads]
    options += ["--careful"] if args.careful else []
    with tempfile.TemporaryDirectory() as work:
        if args.truth3d:
            pictures(args.truth3d, options, Path(work))
            if all(
                "R" in p
                for p in json.loads((args.truth3d / "annotations.json").read_text("utf-8"))[
                    "images"
                ]
            ):
                known_cameras(args.truth3d, options, Path(work))
        for video, truth in args.sequence or [SAMPLE]:
            clip(video, truth, options, Path(work))
    return 0


if __name__ == "__main__":
    raise SystemExit(tables())
