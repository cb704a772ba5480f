"""The training loop of Stage I: one process for each device, a schedule that follows the clock.

The folder of a run holds last.pt (to go on), ema.pt with its parts (the averaged weights),
metrics.csv, losses.png, labels.jpg and people_*.jpg.
"""

from __future__ import annotations

import copy
import logging
import math
import signal
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from manypose.errors import ManyposeError, UsageError
from manypose.models.heads import Maps, StageOne
from manypose.models.train import batches, checkpoints, distil, muon, ranks, sheets
from manypose.models.train.batches import Augmentation, Batch
from manypose.models.train.losses import losses
from manypose.models.train.packs import Photo
from manypose.models.train.reports import Report, Table
from manypose.models.train.store import Store

_LOG = logging.getLogger(__name__)
_WARM_UP = 0.03  # share of the run
_PROGRESS_S = 10.0
_ASK_EVERY = 10  # steps between two agreements of several processes about time and end


@dataclass(frozen=True, slots=True)
class Part:
    """A part of a run: its share of the time, input width and height px, pictures a step."""

    share: float
    width: int
    height: int
    batch: int


@dataclass(frozen=True, slots=True)
class Recipe:
    """How to train; times in minutes and seconds, weights of losses relative to heat-maps."""

    parts: tuple[Part, ...]
    minutes: float
    backbone: str = "selecsls60"
    width: float = 1.0
    optimizer: str = "muon"  # or "adamw"
    lr: float = 2e-3
    weight_decay: float = 0.01
    ema: float = 0.999
    clip: float = 5.0
    weight_pafs: float = 1.0
    weight_encodings: float = 0.3
    weight_teacher: float = 0.5
    how: Augmentation = field(default_factory=Augmentation)
    steps: int | None = None  # ends after so many steps instead of after `minutes`
    score_every_s: float = 600.0
    save_every_s: float = 180.0
    bf16: bool | None = None  # None: where the processor has it
    compile: bool = False
    seed: int = 0
    score_size: tuple[int, int] | None = None  # width, height; None: of the last part


def bf16_here(device: torch.device) -> bool:
    """Return whether the processor computes in bfloat16, so that it is faster and not slower."""
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported())
    ask = getattr(torch.cpu, "_is_avx512_bf16_supported", None)
    return bool(ask and ask())


class _Stop:
    """Remembers a Ctrl-C or SIGTERM until a step is done and saved."""

    def __init__(self) -> None:
        self.number: int | None = None

    @contextmanager
    def armed(self) -> Iterator[None]:
        """Take the signals over; the one that came is raised again at the end."""

        def remember(number: int, _frame: object) -> None:
            self.number = number

        try:
            before = {s: signal.signal(s, remember) for s in (signal.SIGINT, signal.SIGTERM)}
        except ValueError:  # not in the main thread: whoever runs us handles signals
            yield
            return
        try:
            yield
        finally:
            for s, handler in before.items():
                signal.signal(s, handler)
        if self.number is not None:
            signal.raise_signal(self.number)


def train(
    recipe: Recipe, store: Store, val: Sequence[Photo], val_3d: Sequence[Photo], out: Path,
    init: Path | None = None, resume: bool = False, teacher: distil.Teacher | None = None,
    began: float | None = None,
) -> dict[str, float]:  # fmt: skip
    """Train into the folder `out` and return the last scores.

    Args:
        recipe: how.
        store: photos on the device that trains.
        val: photos to score on; may be empty.
        val_3d: photos with true 3D, for the error of the bones; may be empty.
        out: folder of the run.
        init: averaged weights to start from (a file with the key "ema").
        resume: go on from last.pt of `out`, if it is there.
        teacher: a network whose maps for the augmented pictures are learnt too.
        began: `time.monotonic()` from which the minutes count; default now.

    Raises:
        ManyposeError: the losses are not finite any more.
        WeightsError: `init` or last.pt are of another network.
        OutputError: `out` cannot be written.
    """
    run = _Run(recipe, store, out, init, resume, teacher, began)
    report = Report(recipe, out, val, val_3d)
    stop = _Stop()
    with stop.armed():
        return run.go(stop, report)


class _Run:
    """State of one run."""

    def __init__(
        self, recipe: Recipe, store: Store, out: Path, init: Path | None, resume: bool,
        teacher: distil.Teacher | None, began: float | None,
    ) -> None:  # fmt: skip
        self.recipe, self.store, self.out, self.teacher = recipe, store, out, teacher
        self.device = store.device
        self.rank, self.world = ranks.here()
        self.bf16 = bf16_here(self.device) if recipe.bf16 is None else recipe.bf16
        torch.manual_seed(recipe.seed)
        self.net = StageOne(recipe.backbone, recipe.width)
        if init is not None:
            content = checkpoints.read(init)
            if not isinstance(content.get("ema"), dict):
                raise UsageError(f"{init} has no averaged weights: give an ema.pt with --init")
            checkpoints.load_weights(self.net, content["ema"], init)
        self.net.to(self.device)
        channels_last(self.net)
        self.mean = copy.deepcopy(self.net).eval().requires_grad_(False)
        self.optimizer = _optimizer(self.net, recipe)
        self.rng = torch.Generator(device=self.device).manual_seed(
            recipe.seed + 1_000_003 * self.rank
        )
        self.step = self.images = 0
        self.used_s = 0.0
        if resume and (out / checkpoints.LAST).exists():
            self._restore(out / checkpoints.LAST)
        elif self.rank == 0:
            Table.start(out)
        self._averages = _floats(self.mean)
        self._values = _floats(self.net)
        self.forward: nn.Module = ranks.wrapped(self.net, self.device)
        if recipe.compile:
            self.forward = torch.compile(self.forward)  # type: ignore[assignment]
        self.began = time.monotonic() if began is None else began
        self.reserve_s = 0.0  # for the last report
        self.sums = torch.zeros(4, device=self.device)
        self.count = 0
        self.spent_data_s = 0.0
        self.mark = (self.images, time.monotonic())

    def _restore(self, path: Path) -> None:
        content = checkpoints.read(path, self.device)
        checkpoints.load_weights(self.net, content["net"], path)
        checkpoints.load_weights(self.mean, content["mean"], path)
        self.optimizer.load_state_dict(content["optimizer"])
        self.step, self.images = content["step"], content["images"]
        self.used_s = content["used_s"]
        if self.rank == 0:
            self.rng.set_state(content["rng"].cpu())
        else:
            self.rng.manual_seed(self.recipe.seed + 1_000_003 * self.rank + self.step)

    def clock_s(self) -> float:
        """Return the seconds that this run has used, over all its stretches."""
        return self.used_s + time.monotonic() - self.began

    def share(self) -> float:
        """Return how much of the run is over, in [0, 1]."""
        if self.recipe.steps is not None:
            return min(self.step / self.recipe.steps, 1.0)
        total = max(self.recipe.minutes * 60 - self.reserve_s, 1e-6)
        return min(self.clock_s() / total, 1.0)

    def part(self, share: float) -> Part:
        """Return the part of the recipe that this share of the run belongs to."""
        total = 0.0
        for part in self.recipe.parts:
            total += part.share
            if share < total:
                return part
        return self.recipe.parts[-1]

    def go(self, stop: _Stop, report: Report) -> dict[str, float]:
        """Run to the end or to a signal; returns the last scores."""
        scores: dict[str, float] = {}
        saved = scored = shown = time.monotonic()
        share = 0.0
        while True:
            if self.world == 1 or self.step % _ASK_EVERY == 0:
                share, stopped = ranks.agreed(self.share(), stop.number is not None, self.device)
                if stopped:
                    break
            if self.recipe.steps is not None:
                share = self.share()  # every process counts the same steps
            if share >= 1:
                break
            part = self.part(share)
            self._one_step(part, share)
            now = time.monotonic()
            if self.rank == 0 and now - shown > _PROGRESS_S:
                self._progress(share)
                shown = now
            if self.rank == 0 and now - scored > self.recipe.score_every_s:
                scores = self._report(report, part)
                saved = scored = shown = time.monotonic()
            elif self.rank == 0 and now - saved > self.recipe.save_every_s:
                self._check()
                self.save(scores)
                saved = time.monotonic()
        if self.rank == 0:
            self._check()
            self.save(scores)
            if stop.number is None:
                scores = self._report(report, self.part(1.0))
        ranks.leave()
        return scores

    def _one_step(self, part: Part, share: float) -> None:
        lr = _lr(share, self.recipe.lr)
        for group in self.optimizer.param_groups:
            group["lr"] = lr
        began = time.monotonic()
        batch = batches.make(
            self.store, part.batch, part.width, part.height, self.recipe.how, self.rng
        )
        self.spent_data_s += time.monotonic() - began
        if self.step == 0 and self.rank == 0:
            sheets.label_sheet(self.out / "labels.jpg", batch)
        loss, pieces = self._loss(batch)
        loss.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(self.net.parameters(), self.recipe.clip)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        self.step += 1
        self.images += part.batch * self.world
        keep = min(self.recipe.ema, (1 + self.step) / (10 + self.step))
        with torch.no_grad():
            torch._foreach_lerp_(self._averages, self._values, 1 - keep)
            self.sums += pieces
        self.count += 1

    def _loss(self, batch: Batch) -> tuple[Tensor, Tensor]:
        self.net.train()
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.bf16):
            answer = Maps(*self.forward(batch.images))
        each = losses(answer, batch.targets)
        r = self.recipe
        total = each.heatmaps + r.weight_pafs * each.pafs + r.weight_encodings * each.encodings
        hint = torch.zeros_like(total)
        if self.teacher is not None:
            hint = distil.loss(answer, self.teacher(batch.images), batch.targets)
            total = total + r.weight_teacher * hint
        return total, torch.stack([v.detach() for v in (*each, hint)])

    def _check(self) -> np.ndarray:
        """Return the mean losses since the last report; refuse to go on when they are no numbers.

        Raises:
            ManyposeError: a loss is not finite.
        """
        mean: np.ndarray = (self.sums / max(self.count, 1)).cpu().numpy()
        if not np.isfinite(mean).all():
            raise ManyposeError(
                f"the losses are not finite after step {self.step}: resume from the last "
                f"checkpoint with a smaller --lr than {self.recipe.lr:g}"
            )
        return mean

    def rate(self) -> float:
        """Return pictures per second since the last report."""
        return (self.images - self.mark[0]) / max(time.monotonic() - self.mark[1], 1e-6)

    def _progress(self, share: float) -> None:
        heat, pafs, encodings, hint = self._check()
        data = self.spent_data_s / max(time.monotonic() - self.mark[1], 1e-6)
        left = (1 - share) * self.clock_s() / max(share, 1e-6) / 60
        if self.recipe.steps is None:
            left = self.recipe.minutes - self.clock_s() / 60
        taught = f" teacher {hint:.3f}" if self.teacher is not None else ""
        _LOG.info(
            "step %d, %.0f %%: heat-maps %.3f fields %.3f 3D %.3f%s, %.1f images/s (data %.0f %%), "
            "%.1f min left",
            self.step, 100 * share, heat, pafs, encodings, taught, self.rate(), 100 * data, left,
        )  # fmt: skip

    def _report(self, report: Report, part: Part) -> dict[str, float]:
        began = time.monotonic()
        mean = self._check()
        size = self.recipe.score_size or (part.width, part.height)
        row: dict[str, Any] = {
            "step": self.step,
            "images": self.images,
            "minutes": round(self.clock_s() / 60, 2),
            "size": f"{part.width}x{part.height}",
            "lr": float(self.optimizer.param_groups[0]["lr"]),
            **{k: float(v) for k, v in zip(("heatmaps", "pafs", "encodings", "teacher"), mean)},
            "images_s": round(self.rate(), 2),
            "data_share": round(self.spent_data_s / max(time.monotonic() - self.mark[1], 1e-6), 3),
        }
        scores = report.make(self.mean, self.device, size, row)
        self.save(scores)
        self.sums.zero_()
        self.count, self.spent_data_s = 0, 0.0
        self.mark = (self.images, time.monotonic())
        self.reserve_s = 1.1 * (time.monotonic() - began)
        return scores

    def save(self, scores: dict[str, float]) -> None:
        """Write last.pt and the averaged weights.

        Raises:
            OutputError: the folder cannot be written.
        """
        checkpoints.save(
            self.out / checkpoints.LAST,
            {
                "net": self.net.state_dict(), "mean": self.mean.state_dict(),
                "optimizer": self.optimizer.state_dict(), "step": self.step,
                "images": self.images, "used_s": float(self.clock_s()),
                "rng": self.rng.get_state(),
            },
        )  # fmt: skip
        checkpoints.save_weights(
            self.out, self.mean,
            {
                "backbone": self.recipe.backbone, "width": float(self.recipe.width),
                "step": self.step, "images": self.images,
                "minutes": float(self.clock_s() / 60),
                "scores": {k: float(v) for k, v in scores.items()},
            },
        )  # fmt: skip


def _floats(net: nn.Module) -> list[Tensor]:
    return [v for v in net.state_dict().values() if v.is_floating_point()]


def _optimizer(net: nn.Module, recipe: Recipe) -> torch.optim.Optimizer:
    """Return the optimiser of the recipe; normalisation and biases do not decay."""
    groups = muon.grouped(net, recipe.weight_decay, recipe.lr)
    if recipe.optimizer == "muon":
        return muon.Muon(groups, recipe.lr)
    for group in groups:
        del group["orthogonal"]
    return torch.optim.AdamW(groups, lr=recipe.lr, fused=True)


def _lr(share: float, peak: float) -> float:
    """Return the step size: a short warm-up, then a cosine down to zero."""
    if share < _WARM_UP:
        return peak * max(share / _WARM_UP, 0.01)
    return float(peak * 0.5 * (1 + math.cos(math.pi * (share - _WARM_UP) / (1 - _WARM_UP))))


def channels_last(net: nn.Module) -> None:
    """Lay the kernels out channels-last: two to three times the speed of bf16 on CPU and GPU."""
    for p in net.parameters():
        if p.dim() == 4:
            p.data = p.data.contiguous(memory_format=torch.channels_last)
