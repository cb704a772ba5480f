"""The training loop of the network of portraits; a schedule that follows the clock.

The folder of a run holds last.pt (to go on), ema.pt (the averaged weights, with parts to send),
portraits.csv, labels.jpg and people.jpg.
"""

from __future__ import annotations

import copy
import logging
import math
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from manypose.errors import ManyposeError, OutputError, WeightsError
from manypose.models.portrait import Portrait, PortraitMaps
from manypose.models.train import checkpoints, muon, ranks, widen
from manypose.models.train.portraits import hold_out, pictures
from manypose.models.train.portraits.batch import Batch, Drawer, Variation
from manypose.models.train.portraits.guide import Guide, Teacher
from manypose.models.train.portraits.hold_out import HoldOut
from manypose.models.train.recipe import step_size
from manypose.models.train.stop import Stop
from manypose.models.train.student import bf16_here, channels_last
from manypose.pose.portraits import CLUES, SIGMA_CELLS

_LOG = logging.getLogger(__name__)
KIND = "portrait"
TABLE = "portraits.csv"
_COLUMNS = (
    "step", "portraits", "minutes", "lr", "places", "seen", "bones", "teacher", "per_s", "AP",
    "ap_error", "AP50", "AR", "AP_told", "pck", "pck_told", "pose_mm", "pose_constant_mm",
)  # fmt: skip
_PROGRESS_S = 10.0
# The entropy of a joint's Gaussian: the loss of places cannot be less.
_LEAST = math.log(2 * math.pi * math.e * SIGMA_CELLS**2)
_BEND = 0.2  # of the smooth L1: network units, 5 cm
# A teacher is asked at every step at first, then at every second one, at last the labels alone
# say what is right.
_AT_FIRST, _AT_LAST = 0.1, 0.75


@dataclass(frozen=True, slots=True)
class Plan:
    """How to train; times in minutes and seconds."""

    minutes: float = 60.0
    width: float = 0.375
    batch: int = 64
    lr: float = 2e-3
    weight_decay: float = 0.01
    ema: float = 0.999
    clip: float = 5.0
    weight_bones: float = 0.3
    weight_seen: float = 0.5
    weight_teacher: float = 1.0
    average_s: float = 6.0  # several processes average their weights so often
    score_every_s: float = 600.0
    save_every_s: float = 120.0
    steps: int | None = None  # ends after so many steps instead of after `minutes`
    seed: int = 0
    how: Variation = field(default_factory=Variation)


def train(
    plan: Plan, drawer: Drawer, held: HoldOut, out: Path, init: Path | None, resume: bool,
    began: float, teacher: Teacher | None = None,
) -> dict[str, float]:  # fmt: skip
    """Train into the folder `out` and return the last scores.

    began: `time.monotonic()` from which the minutes count. teacher: whose layers are learnt, too.

    Raises:
        ManyposeError: the losses are not finite any more.
        WeightsError: `init` or last.pt are of another network.
        OutputError: `out` cannot be written.
    """
    run = _Run(plan, drawer, held, out, began, teacher)
    if resume and (out / checkpoints.LAST).exists():
        run.restore()
    elif init is not None:
        start_from(run.net, init)
        run.mean.load_state_dict(run.net.state_dict())
    stop = Stop()
    with stop.armed():
        return run.go(stop)


def start_from(net: Portrait, init: Path) -> None:
    """Load the weights of a network of portraits, or the backbone of Stage I.

    Weights of narrower portraits are widened.

    Raises:
        WeightsError: they are of another network.
    """
    content = checkpoints.read(init)
    weights = content.get("ema")
    if not isinstance(weights, dict):
        raise WeightsError(f"{init} has no averaged weights: choose the ema.pt of a training run")
    if content.get("kind") == KIND:
        width = float(content.get("width", net.width))
        if width < net.width:
            widen.fill(net, network(init)[0], (3, CLUES))
            _LOG.info("%s has width %g: widened to %g", init, width, net.width)
        else:
            checkpoints.load_weights(net, weights, init)
        return
    prefix = "backbone."
    backbone = {k.removeprefix(prefix): v for k, v in weights.items() if k.startswith(prefix)}
    checkpoints.load_weights(net.backbone, backbone, init)


def network(path: Path) -> tuple[Portrait, dict[str, Any]]:
    """Return the network with the averaged weights of a file, and what the file says of itself.

    Raises:
        WeightsError: the file is missing, damaged or of another network.
    """
    content = checkpoints.read(path)
    weights = content.pop("ema", None)
    if content.get("kind") != KIND or not isinstance(weights, dict):
        raise WeightsError(f"{path} has no weights of portraits: see manypose train portraits")
    net = Portrait(float(content["width"]))
    checkpoints.load_weights(net, weights, path)
    return net, content


class _Run:
    """State of one run."""

    def __init__(
        self, plan: Plan, drawer: Drawer, held: HoldOut, out: Path, began: float,
        teacher: Teacher | None = None,
    ) -> None:  # fmt: skip
        self.plan, self.drawer, self.held, self.out, self.began = plan, drawer, held, out, began
        self.rank, self.world = ranks.here()
        self.device = drawer.device
        self.bf16 = bf16_here(self.device)
        torch.manual_seed(plan.seed)
        self.net = Portrait(plan.width).to(self.device)
        channels_last(self.net)
        self.mean = copy.deepcopy(self.net).eval().requires_grad_(False)
        self.guide = None if teacher is None else Guide(teacher, self.net, self.device)
        self.optimizer = muon.Muon(muon.grouped(self.net, plan.weight_decay, plan.lr), plan.lr)
        self.step = self.portraits = self.alone = 0
        self.used_s = self.reserve_s = 0.0
        self.sums = torch.zeros(3, device=self.device)
        self.taught = torch.zeros((), device=self.device)
        self.count = self.lessons = 0
        self.mark = (0, time.monotonic())
        self.exchanged = time.monotonic()

    def restore(self) -> None:
        """Go on from last.pt."""
        path = self.out / checkpoints.LAST
        content = checkpoints.read(path, self.device)
        checkpoints.load_weights(self.net, content.get("net", {}), path)
        checkpoints.load_weights(self.mean, content["mean"], path)
        self.optimizer.load_state_dict(content["optimizer"])
        if self.guide is not None and content.get("guide"):
            self.guide.restore(content["guide"], path)
        self.step, self.portraits = content["step"], content["portraits"]
        self.used_s = content["used_s"]
        self.mark = (self.portraits, time.monotonic())
        if self.rank == 0:
            self.drawer.rng.set_state(content["rng"].cpu())
        else:
            self.drawer.rng.manual_seed(self.plan.seed + 1_000_003 * self.rank + self.step)

    def clock_s(self) -> float:
        """Return the seconds that this run has used, over all its stretches."""
        return self.used_s + time.monotonic() - self.began

    def share(self) -> float:
        """Return how much of the run is over, in [0, 1]."""
        if self.plan.steps is not None:
            return min(self.step / self.plan.steps, 1.0)
        return min(self.clock_s() / max(60 * self.plan.minutes - self.reserve_s, 1e-6), 1.0)

    def go(self, stop: Stop) -> dict[str, float]:
        """Run to the end or to a signal; returns the last scores."""
        found: dict[str, float] = {}
        shown = saved = scored = time.monotonic()
        if self.rank == 0 and self.step == 0:
            _begin(self.out)
            picture = self.drawer.take(40, self.plan.how)
            pictures.label_sheet(self.out / "labels.jpg", picture)
        while True:
            share, stopped = self._agreed(stop.number is not None)
            if stopped or share >= 1:
                break
            self._one_step(share)
            now = time.monotonic()
            if self.rank:
                continue
            if now - shown > _PROGRESS_S:
                self._progress(share)
                shown = now
            if now - scored > self.plan.score_every_s:
                found = self._report()
                shown = saved = scored = time.monotonic()
            elif now - saved > self.plan.save_every_s:
                self.save(found)
                saved = time.monotonic()
        if self.rank == 0:
            self.save(found)
            if stop.number is None:
                found = self._report()
        ranks.leave()
        return found

    @torch.no_grad()
    def _agreed(self, stopped: bool) -> tuple[float, bool]:
        """Return the run's share and whether to stop; now and then weights become their mean."""
        share = self.share()
        if self.world == 1:
            return share, stopped
        over = share >= 1 if self.plan.steps is None else False
        if time.monotonic() - self.exchanged < self.plan.average_s and not over:
            return min(share, 1 - 1e-6), False
        sums = [share if self.rank == 0 else 0.0, float(stopped), float(self.alone)]
        values = _floats(self.net) + ([] if self.guide is None else _floats(self.guide.between))
        share, stops, count = ranks.averaged(values, self.alone, sums)
        self.portraits += round(count)
        self.alone, self.exchanged = 0, time.monotonic()
        return share, stops > 0

    def _one_step(self, share: float) -> None:
        plan = self.plan
        for group in self.optimizer.param_groups:
            group["lr"] = step_size(share, plan.lr)
        batch = self.drawer.take(plan.batch, plan.how)
        pieces = self._losses(batch)
        places, seen, bones = pieces
        total = places + plan.weight_seen * seen + plan.weight_bones * bones
        guide = self.guide if share < (_AT_LAST if self.step % 2 == 0 else _AT_FIRST) else None
        if guide is not None:
            taught = guide.loss(batch.images, (batch.seen * batch.weight > 0).any(1))
            total = total + plan.weight_teacher * taught
        total.backward()
        nn.utils.clip_grad_norm_(self.net.parameters(), plan.clip)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        if guide is not None:
            guide.step()
            self.taught += taught.detach()
            self.lessons += 1
        self.step += 1
        self.alone += plan.batch
        if self.world == 1:
            self.portraits, self.alone = self.portraits + plan.batch, 0
        keep = min(plan.ema, (1 + self.step) / (10 + self.step))
        with torch.no_grad():
            torch._foreach_lerp_(_floats(self.mean), _floats(self.net), 1 - keep)
            self.sums += pieces.detach()
        self.count += 1

    def _losses(self, batch: Batch) -> Tensor:
        """Return the losses of places, of what is seen and of bones (3,)."""
        self.net.train()
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.bf16):
            answer = PortraitMaps(*self.net(batch.images, batch.clues))
        wanted = batch.heatmaps.flatten(2)
        wanted = wanted / wanted.sum(2, keepdim=True).clamp_min(1e-6)
        cross = -(wanted * answer.places.float().flatten(2).log_softmax(2)).sum(2)
        counts = batch.weight * batch.seen
        places = (cross * counts).sum() / counts.sum().clamp_min(1) - _LEAST
        there = functional.binary_cross_entropy_with_logits(
            answer.seen.float(), batch.seen.float(), reduction="none"
        )
        seen = (there * batch.weight).sum() / batch.weight.sum().clamp_min(1)
        error = functional.smooth_l1_loss(
            answer.bones.float(), batch.bones, reduction="none", beta=_BEND
        )
        bones = (error * batch.weight_bones).sum() / batch.weight_bones.sum().clamp_min(1)
        return torch.stack([places, seen, 3 * bones])

    def _check(self) -> np.ndarray:
        mean: np.ndarray = (self.sums / max(self.count, 1)).cpu().numpy()
        if not np.isfinite(mean).all():
            raise ManyposeError(
                f"the losses are not finite after step {self.step}: resume from the last "
                f"checkpoint with a smaller --lr than {self.plan.lr:g}"
            )
        return mean

    def _taught(self) -> float:
        return float(self.taught) / max(self.lessons, 1)

    def _rate(self) -> float:
        return (self.portraits - self.mark[0]) / max(time.monotonic() - self.mark[1], 1e-6)

    def _progress(self, share: float) -> None:
        places, seen, bones = self._check()
        left = (1 - share) * self.clock_s() / max(share, 1e-6) / 60
        _LOG.info(
            "step %d, %.0f %%: places %.3f seen %.3f bones %.3f%s, %.0f portraits/s, %.1f min left",
            self.step, 100 * share, places, seen, bones,
            f" teacher {self._taught():.3f}" if self.lessons else "", self._rate(), left,
        )  # fmt: skip

    def _report(self) -> dict[str, float]:
        began = time.monotonic()
        places, seen, bones = self._check()
        found = self.held.score(hold_out.of_network(self.mean, self.device))
        row = {
            "step": self.step, "portraits": self.portraits,
            "minutes": round(self.clock_s() / 60, 2), "lr": self.optimizer.param_groups[0]["lr"],
            "places": float(places), "seen": float(seen), "bones": float(bones),
            "teacher": self._taught() if self.lessons else "",
            "per_s": round(self._rate(), 1), **found,
        }  # fmt: skip
        _add(self.out, row)
        self._sheet()
        told = ", ".join(f"{k} {v:.3f}" if v < 5 else f"{k} {v:.0f}" for k, v in found.items())
        _LOG.info("step %d, %d portraits: losses %.3f %.3f %.3f; true boxes: %s",
                  self.step, self.portraits, places, seen, bones,
                  told or "nobody to score on")  # fmt: skip
        self.save(found)
        self.sums.zero_()
        self.taught.zero_()
        self.count, self.lessons, self.mark = 0, 0, (self.portraits, time.monotonic())
        self.reserve_s = 1.1 * (time.monotonic() - began)
        return found

    def _sheet(self) -> None:
        some = self.held.portraits[:48]
        if not len(some):
            return
        shown = hold_out.plain_sheets(some)
        maps, _ = hold_out.of_network(self.mean, self.device)(shown)
        pictures.people_sheet(self.out / "people.jpg", some, maps)

    def save(self, scores: dict[str, float]) -> None:
        """Write last.pt and the averaged weights."""
        self._check()
        content = {
            "net": self.net.state_dict(), "mean": self.mean.state_dict(),
            "optimizer": self.optimizer.state_dict(), "step": self.step,
            "portraits": self.portraits, "used_s": float(self.clock_s()),
            "rng": self.drawer.rng.get_state(),
            "guide": None if self.guide is None else self.guide.state(),
        }  # fmt: skip
        checkpoints.save(self.out / checkpoints.LAST, content)
        about = {
            "kind": KIND, "width": float(self.plan.width), "step": self.step,
            "images": self.portraits, "minutes": float(self.clock_s() / 60),
            "scores": {k: float(v) for k, v in scores.items()},
        }  # fmt: skip
        checkpoints.save_weights(self.out, self.mean, about)


def _floats(net: nn.Module) -> list[Tensor]:
    return [v for v in net.state_dict().values() if v.is_floating_point()]


def _begin(out: Path) -> None:
    _write(out, ",".join(_COLUMNS) + "\n", "w")


def _add(out: Path, row: dict[str, Any]) -> None:
    values = [row.get(c, "") for c in _COLUMNS]
    text = ",".join(f"{v:.5g}" if isinstance(v, float) else str(v) for v in values)
    _write(out, text + "\n", "a")


def _write(out: Path, text: str, mode: str) -> None:
    try:
        out.mkdir(parents=True, exist_ok=True)
        with (out / TABLE).open(mode, encoding="utf-8", newline="") as file:
            file.write(text)
    except OSError as error:
        raise OutputError(f"cannot write {out} ({error.strerror}): choose another --out") from None
