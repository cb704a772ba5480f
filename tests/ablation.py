"""Print what each part of the training data is worth: rows of equal budget, one table.

    python -m tests.ablation --photos ADDRESS... --renders ADDRESS... --val ADDRESS --out DIR
        [--labelled ADDRESS...] [--teacher FILE] [--steps N] [--part WxHxBATCH] [--only ROW...]

Every row is one run of `manypose train stage1` from scratch with the same number of steps and
pictures; self-training spends half of them on the labels that the first half's network made
(`manypose train relabel`). Rows whose scores are in --out are not run again, so that a stopped
table goes on; two processes with other rows behind --only share one --out. --photos are labelled by
hand, --labelled by other networks; --teacher is a network whose maps are learnt. Every source needs
its share=, or none.
"""

from __future__ import annotations

import argparse
import json
import shlex
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from manypose.app.main import main
from manypose.models.preprocess import size_named
from manypose.models.train import checkpoints, readers, scores
from manypose.models.train.packs import Photo
from manypose.pose.records import NetworkOutput

_HEAD = ("pictures", "AP", "PCK", "joints recalled", "joints pointed at", "ghosts", "bones mm")


@dataclass(frozen=True, slots=True)
class Row:
    """One run: its name, groups of sources, further words of the command."""

    name: str
    data: tuple[str, ...]
    words: tuple[str, ...] = ()
    taught: bool = False  # by the maps of --teacher
    again: bool = False  # second half on labels of its own

    def __str__(self) -> str:
        return self.name.replace("-", " ")


BOTH = ("photos", "renders")
ROWS = (
    Row("photos", ("photos",)),
    Row("renders", ("renders",)),
    Row("both", BOTH),
    Row("both-no-masks", BOTH, ("--no-masks",)),
    Row("both-no-canvas", BOTH, ("--no-canvas",)),
    Row("both-and-labelled", (*BOTH, "labelled")),
    Row("both-and-teacher", BOTH, taught=True),
    Row("both-self-trained", BOTH, again=True),
    Row("everything", (*BOTH, "labelled"), taught=True),
)


def pointed(item: Photo, output: NetworkOutput) -> list[bool]:
    """Return for every labelled joint whether its map is highest near it, within the body's box.

    It needs no threshold and no grouping, so that it tells young networks apart.
    """
    heat = output.heatmaps
    x, y = np.meshgrid(np.arange(heat.shape[2]), np.arange(heat.shape[1]))
    at = np.stack([x, y], -1) @ output.to_image[:, :2].T + output.to_image[:, 2]
    hits = []
    for joints, box in zip(item.joints_px, item.box_px):
        inside = ((at >= box[:2]) & (at < box[:2] + box[2:])).all(-1)
        if not inside.any():
            continue
        for k in np.flatnonzero((joints[:, 2] > 0) & item.known):
            best = at[inside][heat[k][inside].argmax()]
            far = np.linalg.norm(best - joints[k, :2])
            hits.append(bool(far < scores.NEAR * box[2:].max()))
    return hits


def guessed(photos: Sequence[Photo]) -> float:
    """Return what `pointed` finds if every map is highest in the middle of the box."""
    hits = []
    for item in photos:
        for joints, box in zip(item.joints_px, item.box_px):
            asked = joints[(joints[:, 2] > 0) & item.known, :2]
            far = np.linalg.norm(asked - (box[:2] + box[2:] / 2), axis=1)
            hits += (far < scores.NEAR * box[2:].max()).tolist()
    return float(np.mean(hits))


def scored(weights: Path, val: list[Photo], val_3d: list[Photo], size: str) -> dict[str, float]:
    """Return the scores of a run, `pointed` among them."""
    net, about = checkpoints.network(weights)
    predict = scores.of_network(net, *size_named(size))
    hits: list[list[bool]] = []

    def noted(some: Sequence[Photo]) -> list[NetworkOutput]:
        outputs = predict(some)
        hits.extend(pointed(item, output) for item, output in zip(some, outputs))
        return outputs

    found = scores.evaluate(val, noted)
    if val_3d:
        bones = scores.evaluate(val_3d, predict)
        found |= {k: v for k, v in bones.items() if k.startswith("bone")}
    share, error = share_and_error(hits)
    return found | {
        "pointed": share, "pointed_error": error, "images": float(about["images"])
    }  # fmt: skip


def share_and_error(hits: Sequence[Sequence[bool]]) -> tuple[float, float]:
    """Return the share of hits and its standard error; joints of one photo are alike."""
    count = np.array([len(h) for h in hits])
    share = sum(map(sum, hits)) / count.sum()
    rest = np.array([sum(h) for h in hits]) - share * count
    return float(share), float(np.sqrt((rest**2).sum()) / count.sum())


def commands(row: Row, args: argparse.Namespace) -> list[list[str]]:
    """Return the commands of a row, in their order."""
    out = args.out / row.name
    sources = {name: list(getattr(args, name)) for name in row.data}
    data = [a for name in row.data for a in sources[name]]
    common = ["--backbone", args.backbone, "--width", str(args.width), "--parts", f"1:{args.part}",
              "--photo-side", str(args.photo_side), "--threads", str(args.threads),
              "--seed", str(args.seed), "--resume", *row.words]  # fmt: skip
    common += ["--teacher", str(args.teacher)] if row.taught else []

    def stage1(data: list[str], out: Path, steps: int, *words: str) -> list[str]:
        return ["train", "stage1", "--data", *data, "--steps", str(steps), "--out", str(out),
                *common, *words]  # fmt: skip

    if not row.again:
        return [stage1(data, out, args.steps)]
    half = args.steps // 2
    first, fresh, made = out / "first", [], []
    for n, address in enumerate(args.photos):
        pack = out / f"labels{n}"
        share = readers.parse(address)[2].get("share")
        fresh.append(f"pack:{pack}" + (f",share={share}" if share else ""))
        if not (pack / "pack.json").exists():
            made.append(["train", "relabel", address, "--weights", str(first / checkpoints.EMA),
                         "--sizes", args.part.rpartition("x")[0], "--out", str(pack),
                         "--threads", str(args.threads)])  # fmt: skip
    last = stage1([*fresh, *args.renders], out, args.steps - half,
                  "--init", str(first / checkpoints.EMA))  # fmt: skip
    return [stage1(data, first, half), *made, last]


def run(row: Row, args: argparse.Namespace, val: list[Photo], val_3d: list[Photo]) -> None:
    """Run a row and keep its scores in its folder."""
    began = time.monotonic()
    for words in commands(row, args):
        sys.stderr.write(f"manypose {shlex.join(words)}\n")
        if code := main(words):
            raise SystemExit(code)
    trained = time.monotonic() - began
    found = scored(args.out / row.name / checkpoints.EMA, val, val_3d, args.score_size)
    if row.again:  # the first half's pictures are its own too
        found["images"] += checkpoints.network(args.out / row.name / "first" / checkpoints.EMA)[1][
            "images"
        ]
    found |= {"minutes": trained / 60, "steps": args.steps}
    part = args.out / row.name / "scores.json.part"
    part.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    part.replace(done(row, args))


def done(row: Row, args: argparse.Namespace) -> Path:
    path: Path = args.out / row.name / "scores.json"
    return path


def table(args: argparse.Namespace, middle: float) -> str:
    """Return the rows that are done as Markdown."""
    lines = [f"| trained on | {' | '.join(_HEAD)} |", "|---" * (1 + len(_HEAD)) + "|"]
    constant: Any = None
    for row in ROWS:
        if not done(row, args).exists():
            continue
        s = json.loads(done(row, args).read_text(encoding="utf-8"))
        constant = s.get("bone_constant_mm", constant)
        cells = [f"{s['images']:.0f}", f"{s.get('AP', 0):.4f} ± {s.get('ap_error', 0):.4f}"]
        cells += [f"{100 * s[k]:.1f} %" if k in s else "-" for k in ("pck", "recall")]
        cells.append(f"{100 * s['pointed']:.1f} ± {100 * s['pointed_error']:.1f} %")
        cells += [
            f"{s[k]:{f}}" if k in s else "-" for k, f in (("ghosts", ".2f"), ("bone_mm", ".0f"))
        ]
        lines.append(f"| {row} | {' | '.join(cells)} |")
    last = f"{constant:.0f}" if constant is not None else "-"
    guess = f"0 | - | - | - | {100 * middle:.1f} % | - | {last}"
    lines.append(f"| nothing: middle of the box, mean bone | {guess} |")
    return "\n".join(lines) + "\n"


def tables(words: Sequence[str] | None = None) -> int:
    """Run what is missing and print the table; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0], allow_abbrev=False)
    for name in ("photos", "renders", "labelled", "val", "val-3d"):
        parser.add_argument(f"--{name}", nargs="+", metavar="ADDRESS", default=[])
    parser.add_argument("--teacher", type=Path, metavar="FILE")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--steps", type=int, default=1000)
    parser.add_argument("--part", default="192x128x16", metavar="WxHxBATCH")
    parser.add_argument("--score-size", default="320x192", metavar="WxH")
    parser.add_argument("--backbone", default="selecsls42")
    parser.add_argument("--width", type=float, default=0.375)
    parser.add_argument("--photo-side", type=int, default=256)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", nargs="+", choices=[r.name for r in ROWS], metavar="ROW")
    args = parser.parse_args(words)
    val, val_3d = (
        [p for a in some for p in readers.open_source(a)] for some in (args.val, args.val_3d)
    )
    wanted = [
        r for r in ROWS
        if all(getattr(args, d) for d in r.data) and (args.teacher or not r.taught)
        and (not args.only or r.name in args.only)
    ]  # fmt: skip
    missing = [r for r in wanted if not done(r, args).exists()]
    began = time.monotonic()
    for n, row in enumerate(missing):
        run(row, args, val, val_3d)
        left = (time.monotonic() - began) / (n + 1) * (len(missing) - n - 1) / 60
        sys.stderr.write(f"{row}: done, {n + 1} of {len(missing)}, {left:.1f} min left\n")
    sys.stdout.write(table(args, guessed(val)))
    return 0


if __name__ == "__main__":
    raise SystemExit(tables())
