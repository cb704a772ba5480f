"""Training of Stage II on captured poses: bodies, cameras and faults are drawn, no pictures needed.

The part-wise network contains the full-body one; they are trained side by side on the same people,
each by its own loss, so that one run compares both forms and either can be shipped.
"""

from __future__ import annotations

import argparse
import logging
import math
import signal
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from manypose.errors import WeightsError
from manypose.models.lifter import LOG_SIGMA_MAX, LOG_SIGMA_MIN, PartWise
from manypose.models.lifter_runtime import write_lifter
from manypose.models.train.mocap import Poses, draw, read_poses
from manypose.models.train.sightings import ErrorModel, see, trembled
from manypose.pose import lifting
from manypose.pose.joints import PARENT, ROOT

Float = NDArray[np.floating[Any]]
_LOG = logging.getLogger(__name__)
_BONES = torch.tensor([j for j in range(len(PARENT)) if j != ROOT])
_ABOVE = torch.tensor([PARENT[j] for j in range(len(PARENT)) if j != ROOT])
_CHECK_COUNT, _CHECK_EVERY = 2048, 250
# Every fourth person is shown twice, and how far the two answers are apart weighs this much.
_AGAIN, _STEADY = 4, 2.0
_GUESS = "guess"


@dataclass(frozen=True, slots=True, eq=False)
class Stage2Options:
    """What a run of training needs; see `add_arguments` for the words."""

    mocap: Path
    avatars: Path
    folder: Path
    steps: int = 6000
    batch: int = 768
    rate: float = 1.2e-3
    width: int = 512
    blocks: int = 2
    minutes: float | None = None
    errors: tuple[Path, ...] = ()
    start: Path | None = None
    seed: int = 1


@dataclass(frozen=True, slots=True, eq=False)
class Scores:
    """Mean errors on held-out people in millimetres, for the three answers of the network.

    apart_mm: how far the answer moves from frame to frame while the person does not.
    """

    full_mm: float
    parts_mm: float
    gated_mm: float
    gated_bones_mm: float
    gated_plain_mm: float
    apart_mm: float

    def __str__(self) -> str:
        return (
            f"held out: full {self.full_mm:.1f}  parts {self.parts_mm:.1f}  gated "
            f"{self.gated_mm:.1f} mm (encodings {self.gated_bones_mm:.1f}, "
            f"none {self.gated_plain_mm:.1f}), trembles by {self.apart_mm:.1f} mm"
        )


@dataclass(frozen=True, slots=True, eq=False)
class Drawn:
    """People as Stage II is shown them.

    features (B, F); truth (B, J, 3) m relative to the pelvis and root (B, 3) m in the axes of the
    virtual cameras. again (T, F): the first T people as the next frame of a video would show them
    if nobody moved; turn (T, 3, 3) from the axes of that frame's virtual cameras to the first's.
    """

    features: Tensor
    truth: Tensor
    root: Tensor
    again: Tensor
    turn: Tensor


def drawn_batch(
    poses: Poses, count: int, rng: np.random.Generator, errors: ErrorModel, vary: bool = True
) -> Drawn:
    """Return people drawn at random; of half of them it is told where up is."""
    seen = see(draw(poses, count, rng, vary), rng, errors)
    rays, score = lifting.complete(seen.rays, seen.score)
    told = _told(seen.up, rng)
    features, turn = lifting.encode(rays, score, seen.bones, told)
    truth = (seen.joints_m - seen.joints_m[:, ROOT : ROOT + 1]) @ turn.transpose(0, 2, 1)
    root = (turn @ seen.joints_m[:, ROOT, :, None])[..., 0]
    few = count // _AGAIN
    next_rays, next_bones = trembled(rays[:few], seen.bones[:few], rng)
    again, next_turn = lifting.encode(next_rays, score[:few], next_bones, told[:few])
    back = turn[:few] @ next_turn.transpose(0, 2, 1)
    return Drawn(
        *(torch.from_numpy(np.asarray(t, np.float32)) for t in (features, truth, root, again, back))
    )


def _told(up: Float, rng: np.random.Generator) -> Float:
    """Return the vectors up (N, 3) as they would be known: half of them, some degrees off."""
    count = len(up)
    off_rad = np.where(rng.random(count) < 0.3, 0.14, 0.05) / np.sqrt(2)
    known = up + rng.normal(size=up.shape) * off_rad[:, None]
    known /= np.linalg.norm(known, axis=1, keepdims=True)
    return np.where(rng.random((count, 1)) < 0.5, known, 0.0)


def read_errors(path: Path) -> ErrorModel:
    """Return the faults in a file; the word ``guess`` names those that nobody measured.

    Raises:
        ConfigError: the file cannot be read or has other keys.
    """
    return ErrorModel() if str(path) == _GUESS else ErrorModel.read(path)


def loss_of(answer: Tensor, truth: Tensor, root: Tensor) -> Tensor:
    """Return the mean loss of answers (B, J, 4) against joints (B, J, 3), roots at (B, 3).

    Distance of joints and of bones, likelihood of the stated error (its best value is the mean
    distance), and the sideways distance where the true camera would see the answer.
    """
    joints, log_sigma = answer[..., :3], answer[..., 3].clamp(LOG_SIGMA_MIN, LOG_SIGMA_MAX)
    joints = joints - joints[:, ROOT : ROOT + 1]
    off = _length(joints - truth)
    bones = _length((joints[:, _BONES] - joints[:, _ABOVE]) - (truth[:, _BONES] - truth[:, _ABOVE]))
    stated = off * (-log_sigma).exp() + log_sigma
    far = root[:, None, 2:]
    shown = (joints + root[:, None])[..., :2] / (joints[..., 2:] + far).clamp_min(0.15)
    true = (truth + root[:, None])[..., :2] / (truth[..., 2:] + far).clamp_min(0.15)
    sideways = _length((shown - true) * far).clamp_max(1.0)
    return 3 * off.mean() + bones.mean() + 0.3 * stated.mean() + 0.5 * sideways.mean()


def unsteadiness(answer: Tensor, again: Tensor, turn: Tensor) -> Tensor:
    """Return the mean distance m of the joints of answers (B, J, 4) of two frames with no motion.

    again (T, J, 4) is the answer of the second frame, turn (T, 3, 3) goes back to the first's axes.
    """
    first, second = (a[..., :3] - a[:, ROOT : ROOT + 1, :3] for a in (answer[: len(again)], again))
    return _length(first - second @ turn.transpose(1, 2)).mean()


def _length(vectors: Tensor) -> Tensor:
    """Return the lengths of (..., D) vectors, smooth at 0 (rounded within 1 cm)."""
    return ((vectors**2).sum(-1) + 1e-4).sqrt()


def train_stage2(options: Stage2Options) -> Scores:
    """Train until the steps or the minutes are over; write weights of both forms and a checkpoint.

    SIGTERM and SIGINT end the run early; everything is written and a later run goes on from it.

    Raises:
        SourceError, ConfigError, WeightsError: an input cannot be read.
    """
    torch.manual_seed(options.seed)
    options.folder.mkdir(parents=True, exist_ok=True)
    models = [read_errors(path) for path in options.errors] or [ErrorModel()]
    train, held = read_poses(options.mocap, options.avatars)
    check_rng = np.random.default_rng(7)
    check = drawn_batch(held, _CHECK_COUNT, check_rng, models[-1], vary=False)

    net = PartWise(options.width, options.blocks)
    adam = torch.optim.AdamW(net.parameters(), options.rate, weight_decay=1e-4)
    saved = options.folder / "stage2.pt"
    step = _resume(saved, net, adam) if saved.exists() else 0
    if step == 0 and options.start:
        _resume(options.start, net, None)
    rng = np.random.default_rng((options.seed, step))
    stop: list[int] = []

    def end(number: int, _: FrameType | None) -> None:
        stop.append(number)

    before = {s: signal.signal(s, end) for s in (signal.SIGTERM, signal.SIGINT)}
    began, first, scores = time.monotonic(), step, None
    # The average of the weights over the last steps is steadier than the last weights.
    average = {k: v.clone() for k, v in net.state_dict().items()}
    try:
        while step < options.steps and not stop:
            spent = (time.monotonic() - began) / 60
            done = step / options.steps
            if options.minutes is not None:
                if spent >= options.minutes:
                    break
                done = max(done, spent / options.minutes)
            for group in adam.param_groups:
                group["lr"] = options.rate * _pace(done, step)
            errors = models[step % len(models)]
            drawn = drawn_batch(train, options.batch, rng, errors)
            features, truth, root = drawn.features, drawn.truth, drawn.root
            both = torch.cat([features, drawn.again])
            full, full_again = torch.split(net.full(both), len(features))
            parts, parts_again = torch.split(net.parts(both), len(features))
            gate = net.open(features)
            # The gate alone learns from the mixture: either form stays what it is without it.
            mixed = gate * parts.detach() + (1 - gate) * full.detach()
            loss = loss_of(full, truth, root) + loss_of(parts, truth, root)
            loss = loss + loss_of(mixed, truth, root)
            loss = loss + _STEADY * unsteadiness(full, full_again, drawn.turn)
            loss = loss + _STEADY * unsteadiness(parts, parts_again, drawn.turn)
            adam.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            torch.nn.utils.clip_grad_norm_(net.parameters(), 1.0)
            adam.step()
            step += 1
            keep = min(0.998, step / (step + 10))
            with torch.no_grad():
                for k, v in net.state_dict().items():
                    average[k].lerp_(v, 1 - keep)
            if step % 50 == 0:
                left = _left(step - first, step, options, time.monotonic() - began)
                sys.stderr.write(f"\rstep {step}/{options.steps}  loss {loss.item():.4f}  {left} ")
                sys.stderr.flush()
            if step % _CHECK_EVERY == 0:
                scores = _scores(net, average, check)
                _LOG.info("step %d: %s", step, scores)
                _save(saved, step, net, adam)
                _export(options.folder, net, average)
    finally:
        for s, handler in before.items():
            signal.signal(s, handler)
    sys.stderr.write("\n")
    scores = _scores(net, average, check)
    _save(saved, step, net, adam)
    _export(options.folder, net, average)
    _LOG.info("step %d: %s; written to %s", step, scores, options.folder)
    return scores


def _pace(done: float, step: int) -> float:
    """Return the factor of the learning rate: a short rise, then a cosine to a hundredth."""
    return min(1.0, (step + 1) / 200) * (0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * min(done, 1))))


def _left(done: int, step: int, options: Stage2Options, spent_s: float) -> str:
    rate = done / max(spent_s, 1e-9)
    left_s = (options.steps - step) / max(rate, 1e-9)
    if options.minutes is not None:
        left_s = min(left_s, options.minutes * 60 - spent_s)
    return f"{rate:.1f}/s  {max(left_s, 0) / 60:.1f} min left"


def _export(folder: Path, net: PartWise, average: dict[str, Tensor]) -> None:
    final = _averaged(net, average)
    write_lifter(folder / "lifter_parts.npz", final)
    write_lifter(folder / "lifter_full.npz", final.full)


def _averaged(net: PartWise, average: dict[str, Tensor]) -> PartWise:
    body = net.full.body
    copy = PartWise(body.first.out_features, len(body.layers) // 2)
    copy.load_state_dict(average)
    return copy.eval()


@torch.no_grad()
def _scores(net: PartWise, average: dict[str, Tensor], check: Drawn) -> Scores:
    model = _averaged(net, average)
    features, truth = check.features, check.truth
    off = {}
    for name, answer in (
        ("full", model.full(features)), ("parts", model.parts(features)), ("gated", model(features))
    ):  # fmt: skip
        joints = answer[..., :3] - answer[:, ROOT : ROOT + 1, :3]
        off[name] = (joints - truth).norm(dim=-1).mean(1) * 1000
    bones = features[:, lifting.HAS_BONES] > 0
    gated = off["gated"]
    apart = unsteadiness(model(features), model(check.again), check.turn) * 1000
    means = (off["full"], off["parts"], gated, gated[bones], gated[~bones], apart)
    return Scores(*(float(m.mean()) for m in means))


def _save(path: Path, step: int, net: PartWise, adam: torch.optim.Optimizer) -> None:
    part = path.with_name(path.name + ".part")
    torch.save({"step": step, "net": net.state_dict(), "adam": adam.state_dict()}, part)
    part.replace(path)


def _resume(path: Path, net: PartWise, adam: torch.optim.Optimizer | None) -> int:
    try:
        held = torch.load(path, weights_only=True)
        net.load_state_dict(held["net"])
        if adam is not None:
            adam.load_state_dict(held["adam"])
        return int(held["step"])
    except (OSError, RuntimeError, KeyError, ValueError) as error:
        raise WeightsError(
            f"{path}: no checkpoint of this network ({str(error).splitlines()[0]}); "
            "remove it or choose another --out"
        ) from None


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of training Stage II."""
    defaults = Stage2Options(Path(), Path(), Path())
    parser.add_argument("--mocap", type=Path, required=True, help="motion archive, mocap.npz")
    parser.add_argument("--avatars", type=Path, required=True, help="avatar archive, avatars.zip")
    parser.add_argument("--out", type=Path, required=True, help="folder of weights and checkpoint")
    parser.add_argument("--steps", type=int, default=defaults.steps)
    parser.add_argument("--batch", type=int, default=defaults.batch)
    parser.add_argument("--rate", type=float, default=defaults.rate, help="learning rate")
    parser.add_argument(
        "--width", type=int, default=defaults.width, help="of the full-body network"
    )
    parser.add_argument("--blocks", type=int, default=defaults.blocks)
    parser.add_argument("--minutes", type=float, help="stop, with a rate fallen to nought, by then")
    parser.add_argument(
        "--errors", type=Path, nargs="+", metavar="FILE", default=(),
        help="measured errors of Stage I, JSON; of several, or of the word guess, one after the "
        "other is drawn from, and the last one judges",
    )  # fmt: skip
    parser.add_argument("--start", type=Path, help="checkpoint to begin from, its step not counted")
    parser.add_argument("--seed", type=int, default=defaults.seed)


def run(args: argparse.Namespace) -> int:
    """Train with parsed arguments; return the exit code."""
    names = ("mocap", "avatars", "steps", "batch", "rate", "width", "blocks", "minutes", "start",
             "seed")  # fmt: skip
    given = {n: getattr(args, n) for n in names}
    train_stage2(Stage2Options(folder=args.out, errors=tuple(args.errors), **given))
    return 0
