"""The training loop of Stage I: one process for each device, a schedule that follows the clock.

The folder of a run holds last.pt (to go on), ema.pt with its parts (the averaged weights),
metrics.csv, losses.png, labels.jpg and people_*.jpg.
"""

from __future__ import annotations

import copy
import logging
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from manypose.errors import ManyposeError, UsageError
from manypose.models.heads import Maps, StageOne
from manypose.models.train import batches, centres, checkpoints, distil, ranks, sheets, widen
from manypose.models.train.losses import losses
from manypose.models.train.packs import Photo
from manypose.models.train.pool import Lesson, Pool
from manypose.models.train.recipe import Part, Recipe, optimizer_of, step_size
from manypose.models.train.reports import Report, Table
from manypose.models.train.stop import Stop
from manypose.models.train.store import Store
from manypose.models.train.student import Student, bf16_here, channels_last

_LOG = logging.getLogger(__name__)
_PROGRESS_S = 10.0
_LOSSES = ("heatmaps", "pafs", "encodings", "teacher", "layer")
_ASK_EVERY = 10  # steps between two agreements of several processes about time and end


def train(
    recipe: Recipe, store: Store | None, val: Sequence[Photo], val_3d: Sequence[Photo], out: Path,
    init: Path | None = None, resume: bool = False, teacher: distil.Teacher | None = None,
    began: float | None = None, pools: Sequence[Pool] = (), device: str = "cpu",
) -> dict[str, float]:  # fmt: skip
    """Train into the folder `out` and return the last scores.

    Args:
        recipe: how.
        store: photos on the device that trains; None if pools have every size of the recipe.
        val: photos to score on; may be empty.
        val_3d: photos with true 3D, for the error of the bones; may be empty.
        out: folder of the run.
        init: averaged weights to start from (a file with the key "ema").
        resume: go on from last.pt of `out`, if it is there.
        teacher: a network whose maps for the augmented pictures are learnt too.
        began: `time.monotonic()` from which the minutes count; default now.
        pools: pictures made beforehand, used for the parts of the recipe that have their size.
        device: where to train, if there is no store.

    Raises:
        ManyposeError: the losses are not finite any more.
        WeightsError: `init` or last.pt are of another network.
        OutputError: `out` cannot be written.
    """
    run = _Run(recipe, store, out, init, resume, teacher, began, pools, device)
    report = Report(recipe, out, val, val_3d)
    stop = Stop()
    with stop.armed():
        return run.go(stop, report)


class _Run:
    """State of one run."""

    def __init__(
        self, recipe: Recipe, store: Store | None, out: Path, init: Path | None, resume: bool,
        teacher: distil.Teacher | None, began: float | None, pools: Sequence[Pool] = (),
        device: str = "cpu",
    ) -> None:  # fmt: skip
        self.recipe, self.store, self.out, self.teacher = recipe, store, out, teacher
        self.pools = {(p.width, p.height): p for p in pools}
        self.device = torch.device(device) if store is None else store.device
        self.rank, self.world = ranks.here()
        self.bf16 = bf16_here(self.device) if recipe.bf16 is None else recipe.bf16
        torch.manual_seed(recipe.seed)
        self.net = StageOne(recipe.backbone, recipe.width)
        content: dict[str, Any] = {}
        if init is not None:
            content = checkpoints.read(init)
            if not isinstance(content.get("ema"), dict):
                raise UsageError(f"{init} has no averaged weights: give an ema.pt with --init")
            content |= self._started(content, init)
        layers = max((p.layers for p in pools), default=0)
        self.student = Student(self.net, layers, recipe.weight_centres > 0)
        if self.student.centre is not None and content.get("centre"):
            self.student.centre.load_state_dict(content["centre"])
        self.student.to(self.device)
        if recipe.only_3d:
            self.student.requires_grad_(False)
            self.net.head3d.requires_grad_(True)
        channels_last(self.net)
        self.mean = copy.deepcopy(self.net).eval().requires_grad_(False)
        self.centre = copy.deepcopy(self.student.centre)
        self.optimizer = optimizer_of(self.student, recipe)
        self.rng = torch.Generator(device=self.device).manual_seed(
            recipe.seed + 1_000_003 * self.rank
        )
        self.step = self.images = 0
        self.used_s = 0.0
        if resume and (out / checkpoints.LAST).exists():
            self._restore(out / checkpoints.LAST)
        elif self.rank == 0:
            Table.start(out)
        self._averages = _floats(self.mean, self.centre)
        self._values = _floats(self.net, self.student.centre)
        self.averaging = self.world > 1 and recipe.average_s is not None
        self._shared = _floats(self.student)
        self.forward: nn.Module = self.student
        if not self.averaging:
            self.forward = ranks.wrapped(self.student, self.device)
        if recipe.compile:
            self.forward = torch.compile(self.forward)  # type: ignore[assignment]
        self.began = time.monotonic() if began is None else began
        self.reserve_s = 0.0  # for the last report
        self.sums = torch.zeros(5, device=self.device)
        self.count = 0
        self.spent_data_s = 0.0
        self.mark = (self.images, time.monotonic())
        self.exchanged, self.alone = time.monotonic(), 0

    def _started(self, content: dict[str, Any], init: Path) -> dict[str, Any]:
        """Take the weights of a file, those of a narrower network widened; return its centres."""
        recipe, width = self.recipe, float(content.get("width", self.recipe.width))
        if content.get("backbone") != recipe.backbone or width >= recipe.width:
            checkpoints.load_weights(self.net, content["ema"], init)
            return {}
        narrow, _ = checkpoints.network(init)
        self.net = widen.widened(narrow, recipe.backbone, recipe.width, recipe.seed)
        _LOG.info("%s has width %g: widened to %g", init, width, recipe.width)
        centre = content.get("centre")
        if not centre:
            return {}
        features = self.net.trunk[-1][0].out_channels  # type: ignore[index]
        return {"centre": centre | {"weight": widen.reader(centre["weight"], features)}}

    def _restore(self, path: Path) -> None:
        content = checkpoints.read(path, self.device)
        checkpoints.load_weights(self.net, content["net"], path)
        checkpoints.load_weights(self.mean, content["mean"], path)
        if self.student.guess is not None and content.get("guess"):
            self.student.guess.load_state_dict(content["guess"])
        if self.student.centre is not None and self.centre is not None and content.get("centre"):
            self.student.centre.load_state_dict(content["centre"])
            self.centre.load_state_dict(content["centre_mean"])
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

    def go(self, stop: Stop, report: Report) -> dict[str, float]:
        """Run to the end or to a signal; returns the last scores."""
        scores: dict[str, float] = {}
        saved = scored = shown = time.monotonic()
        share = 0.0
        while True:
            if self.averaging:
                share = min(self.share(), 1 - 1e-6)
                if time.monotonic() - self.exchanged > float(self.recipe.average_s or 0):
                    share, stopped = self._exchange(stop.number is not None)
                    if stopped:
                        break
            elif self.world == 1 or self.step % _ASK_EVERY == 0:
                share, stopped = ranks.agreed(self.share(), stop.number is not None, self.device)
                if stopped:
                    break
            if self.recipe.steps is not None and not self.averaging:
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
        lr = step_size(share, self.recipe.lr)
        for group in self.optimizer.param_groups:
            group["lr"] = lr
        began = time.monotonic()
        lesson = self._lesson(part)
        self.spent_data_s += time.monotonic() - began
        if self.step == 0 and self.rank == 0:
            sheets.label_sheet(self.out / "labels.jpg", lesson.batch)
        loss, pieces = self._loss(lesson, share)
        loss.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(self.student.parameters(), self.recipe.clip)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        self.step += 1
        self.alone += part.batch
        if not self.averaging:
            self.images += part.batch * self.world
        keep = min(self.recipe.ema, (1 + self.step) / (10 + self.step))
        with torch.no_grad():
            torch._foreach_lerp_(self._averages, self._values, 1 - keep)
            self.sums += pieces
        self.count += 1

    @torch.no_grad()
    def _exchange(self, stopped: bool) -> tuple[float, bool]:
        """Average the weights of all processes; return the first one's share, and who must stop."""
        first = self.share() if self.rank == 0 else 0.0
        sums = [first, float(stopped), float(self.alone)]
        share, stops, images = ranks.averaged(self._shared, self.alone, sums)
        self.images += round(images)
        self.alone, self.exchanged = 0, time.monotonic()
        return share, stops > 0

    def _lesson(self, part: Part) -> Lesson:
        how = self.recipe.how
        pool = self.pools.get((part.width, part.height))
        if pool is not None:
            return pool.take(part.batch, how, self.rng)
        if self.store is None:
            raise UsageError(f"no pool is of {part.width}x{part.height}: name photos with --data")
        batch = batches.make(self.store, part.batch, part.width, part.height, how, self.rng)
        return Lesson(batch, None if self.teacher is None else self.teacher(batch.images))

    def _loss(self, lesson: Lesson, share: float) -> tuple[Tensor, Tensor]:
        self.student.train(not self.recipe.only_3d)
        self.net.head3d.train()
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.bf16):
            maps, guess, seeds = self.forward(lesson.batch.images)
            answer = Maps(*maps)
        wanted = lesson.batch.targets
        each = losses(answer, wanted)
        r = self.recipe
        if r.only_3d:
            nothing = torch.zeros_like(each.encodings)
            return each.encodings, torch.stack([*(v.detach() for v in each), nothing, nothing])
        total = each.heatmaps + r.weight_pafs * each.pafs + r.weight_encodings * each.encodings
        if seeds is not None:
            b, _, h, w = seeds.shape
            aims = centres.draw(lesson.batch.people, (b, h, w))
            total = total + r.weight_centres * centres.loss(seeds, aims, wanted.heatmap_weight)
        hint = torch.zeros_like(total)
        if lesson.hints is not None:
            hint = distil.loss(answer, lesson.hints, wanted)
            total = total + r.weight_teacher * hint
        layer = torch.zeros_like(total)
        if guess is not None:
            # without a layer to learn the guess still takes part, so that gradients are complete
            layer = 0.0 * guess.mean()
            if lesson.layer is not None and len(lesson.layer):
                told = guess if lesson.told is None else guess[lesson.told]
                layer = layer + distil.layer_loss(told, lesson.layer)
            total = total + r.weight_layer * (1 - share) * layer
        return total, torch.stack([v.detach() for v in (*each, hint, layer)])

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
        heat, pafs, encodings, hint, layer = self._check()
        data = self.spent_data_s / max(time.monotonic() - self.mark[1], 1e-6)
        left = (1 - share) * self.clock_s() / max(share, 1e-6) / 60
        if self.recipe.steps is None:
            left = self.recipe.minutes - self.clock_s() / 60
        taught = f" teacher {hint:.3f} {layer:.3f}" if self.teacher or self.pools else ""
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
            **{k: float(v) for k, v in zip(_LOSSES, mean)},
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
                "guess": self.student.guess.state_dict() if self.student.guess else {},
                "centre": self.student.centre.state_dict() if self.student.centre else {},
                "centre_mean": self.centre.state_dict() if self.centre else {},
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
            self.centre,
        )  # fmt: skip


def _floats(*nets: nn.Module | None) -> list[Tensor]:
    states = [net.state_dict().values() for net in nets if net is not None]
    return [v for state in states for v in state if v.is_floating_point()]
