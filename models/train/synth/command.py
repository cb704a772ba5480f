"""``manypose train render``: rendered training pictures with exact truth, in parts under 60 MB."""

from __future__ import annotations

import argparse
import logging
import sys
import time
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from manypose.errors import DeviceError, OutputError, UsageError
from manypose.models.train.synth.archive import read_avatars, read_clips
from manypose.models.train.synth.backgrounds import Chance, read_photos
from manypose.models.train.synth.pack import PartWriter
from manypose.models.train.synth.render import render, sample_setting
from manypose.models.train.synth.scene import PEOPLE_MAX, Crowd, Stage, sample_scenes
from manypose.models.train.synth.sequences import render_sequence, sample_sequence

_LOG = logging.getLogger(__name__)
# JPEG pictures with sensor noise take up to half a byte for each pixel: a part stays under 45 MB.
_PART_PIXELS = 90_000_000
_BATCH = {"cpu": 8, "cuda": 64}
_MOVING_SHARE = 0.5


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of ``manypose train render``."""
    parser.add_argument("--avatars", type=Path, required=True, help="avatars.zip")
    parser.add_argument("--mocap", type=Path, required=True, help="mocap.npz")
    parser.add_argument(
        "--photos", metavar="SOURCE",
        help="backgrounds: a folder of pictures without people, or photos:FOLDER, coco:FILE, ...",
    )  # fmt: skip
    parser.add_argument("--out", type=Path, required=True, help="folder for the parts")
    parser.add_argument("--count", type=int, default=1000, help="pictures (default 1000)")
    parser.add_argument("--size", default="512x320", help="width x height, px (default 512x320)")
    parser.add_argument("--seed", type=int, default=1, help="other seed, other pictures")
    parser.add_argument("--people", type=int, help="people in a picture (default: 1 to 10)")
    parser.add_argument(
        "--sequence", type=int, metavar="FRAMES",
        help="sequences of so many consecutive frames at 30 fps instead of single pictures",
    )  # fmt: skip
    parser.add_argument(
        "--split", choices=("train", "val", "all"), default="train",
        help="people and performances to draw from; val are held out of train (default train)",
    )  # fmt: skip
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda or cuda:N")
    parser.add_argument("--threads", type=int, help="CPU threads (default: all cores)")


def run(args: argparse.Namespace) -> int:
    """Render what is missing of the parts in --out; the same command goes on where it stopped.

    Raises:
        UsageError: an option makes no sense.
        DeviceError: there is no such device.
        OutputError: --out cannot be written.
        SourceError: avatars, motion or photographs cannot be read.
    """
    size = _size(args.size)
    if args.count < 1 or (args.sequence is not None and args.sequence < 2):
        raise UsageError("--count must be at least 1 and --sequence at least 2")
    if args.people is not None and not 1 <= args.people <= PEOPLE_MAX:
        raise UsageError(f"--people must be 1 to {PEOPLE_MAX}")
    device = _device(args.device)
    if args.threads:
        torch.set_num_threads(args.threads)
    try:
        args.out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(f"cannot make the folder {args.out}: {error.strerror}") from None
    stage = Stage(read_avatars(args.avatars), read_clips(args.mocap), args.split, device)
    photos = read_photos(args.photos) if args.photos else None
    unit = args.sequence or 1
    in_part = max(unit, min(500, _PART_PIXELS // (size[0] * size[1])) // unit * unit)
    total = -(-args.count // unit) * unit
    progress = _Progress(total)
    for part, first in enumerate(range(0, total, in_part)):
        count = min(in_part, total - first)
        kind = "" if unit == 1 else f"_seq{unit}"
        name = f"render_{args.split}_{size[0]}x{size[1]}{kind}_s{args.seed}_{part:04d}_{count}.npz"
        path = args.out / name
        if path.exists():
            progress.skip(count)
            continue
        rng = np.random.default_rng([args.seed, part, unit])
        writer = PartWriter(rng)
        chance = Chance(int(rng.integers(2**62)), device)
        while len(writer) < count:
            before = len(writer)
            if unit == 1:
                batch = min(_BATCH[torch.device(device).type], count - before)
                _stills(rng, stage, chance, batch, size, photos, writer, args.people)
                progress.step(len(writer) - before)
            else:
                _sequence(rng, stage, chance, unit, size, photos, writer, args.people, progress)
        writer.write(path)
    progress.end(args.out)
    return 0


def _stills(
    rng: np.random.Generator, stage: Stage, chance: Chance, count: int, size: tuple[int, int],
    photos: Tensor | None, writer: PartWriter, people: int | None,
) -> None:  # fmt: skip
    width, height = size
    view, crowd = sample_scenes(rng, stage, count, width, height, people)
    setting = sample_setting(chance, view, crowd, height, width, photos)
    images, truth = render(stage.avatars, view, crowd, setting, chance)
    writer.add(images, truth, *_names(stage, crowd))


def _sequence(
    rng: np.random.Generator, stage: Stage, chance: Chance, frames: int, size: tuple[int, int],
    photos: Tensor | None, writer: PartWriter, people: int | None, progress: _Progress,
) -> None:  # fmt: skip
    number = len(writer) // frames
    moving = bool(rng.random() < _MOVING_SHARE)
    view, crowd = sample_sequence(rng, stage, frames, *size, people, moving)
    avatar, clip = _names(stage, crowd)
    each = len(avatar) // frames
    batch = _BATCH[torch.device(stage.device).type]
    made = render_sequence(stage, view, crowd, chance, size, photos, batch)
    for first, images, truth in made:
        who = slice(first * each, first * each + len(truth.slot))
        writer.add(images, truth, avatar[who], clip[who], number, first)
        progress.step(len(images))


def _names(stage: Stage, crowd: Crowd) -> tuple[list[str], list[str]]:
    avatar = [stage.avatars.names[i] for i in crowd.avatar.tolist()]
    return avatar, [stage.clips.names[i] for i in crowd.clip.tolist()]


def _size(text: str) -> tuple[int, int]:
    words = text.lower().split("x")
    if len(words) != 2 or not all(w.isdigit() and 64 <= int(w) <= 4096 for w in words):
        raise UsageError(f"--size {text}: write width x height in px, such as 512x320")
    return int(words[0]), int(words[1])


def _device(name: str) -> str:
    if name == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    try:
        torch.zeros(1, device=name)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        raise DeviceError(f"no device {name} here ({reason}): choose --device cpu") from None
    return name


class _Progress:
    """A line on the terminal about every two seconds: pictures, rate, time left."""

    def __init__(self, total: int) -> None:
        self._total, self._done, self._skipped = total, 0, 0
        self._began = self._shown = time.monotonic()

    def skip(self, count: int) -> None:
        self._skipped += count

    def step(self, count: int) -> None:
        self._done += count
        now = time.monotonic()
        if now - self._shown >= 2:
            self._shown = now
            rate = self._done / (now - self._began)
            left = (self._total - self._skipped - self._done) / rate
            mark = "\r" if sys.stderr.isatty() else ""
            end = "" if mark else "\n"
            text = f"{self._skipped + self._done}/{self._total} pictures, {rate:.1f}/s"
            sys.stderr.write(f"{mark}{text}, {left / 60:.1f} min left {end}")
            sys.stderr.flush()

    def end(self, folder: Path) -> None:
        spent = max(time.monotonic() - self._began, 1e-9)
        if sys.stderr.isatty():
            sys.stderr.write("\n")
        _LOG.info("%d pictures rendered, %.1f/s, in %s", self._done, self._done / spent, folder)
