"""Print the tables of docs/accuracy.md that depend on the weights of Stage I.

    python -m tests.accuracy [--truth3d FOLDER] [--model NAME|FILE] [--sequence CLIP TRUTH]...

Runs the program as a user does, on the pictures of a folder with an annotations.json (each on its
own) and on clips with the truth of every frame; by default the sample clip. Everything is run with
the encodings of Stage I and from its 2D joints alone, so that the better one can be the default
(`fit.encodings`). About a minute of one core.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import sys
import tempfile
from pathlib import Path
from typing import Any

from manypose.app.main import main

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


def tables() -> int:
    """Run everything; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--truth3d", type=Path, metavar="FOLDER")
    parser.add_argument("--model", default="light", metavar="NAME|FILE")
    parser.add_argument("--sequence", nargs=2, type=Path, action="append", metavar="FILE")
    parser.add_argument("--threads", default="1", metavar="N")
    args = parser.parse_args()
    options = ["--model", args.model, "--threads", args.threads]
    with tempfile.TemporaryDirectory() as work:
        if args.truth3d:
            pictures(args.truth3d, options, Path(work))
        for video, truth in args.sequence or [SAMPLE]:
            clip(video, truth, options, Path(work))
    return 0


if __name__ == "__main__":
    raise SystemExit(tables())
