"""A pool of pictures made beforehand: composed once, shown several times with other colours.

Composing a picture and asking a teacher about it cost as much as training a small network on it.
A pool keeps both on disk, so that an hour of a slow processor trains two to four times as many.
Targets are not kept, only people, from which they are drawn.

A pool is a folder: pool.json, images.npy (N, H, W, 3) BGR, region.npy (N, h, w), known.npy (N, bits
of K + L maps), people.npz, and of a teacher maps.npy (N, n, h, w) and layer.npy (N, c, h, w).
"""

from __future__ import annotations

import json
import logging
import shutil
import time
from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from manypose.errors import OutputError, SourceError
from manypose.models.train import batches, colours, distil, mirror
from manypose.models.train.batches import Augmentation, Batch, Layout, Scenes
from manypose.models.train.stop import Stop
from manypose.models.train.store import Store
from manypose.models.train.targets import People
from manypose.pose.joints import JOINTS_2D, LIMBS
from manypose.pose.targets import STRIDE

Array = NDArray[Any]
_LOG = logging.getLogger(__name__)
MANIFEST = "pool.json"
_FORMAT = "manypose pool 1"
_AT_ONCE = 8  # pictures
_PROGRESS_S = 10.0
_K, _L = len(JOINTS_2D), len(LIMBS)
_PEOPLE = tuple(f.name for f in fields(People))
_MAP_UNIT = 100.0  # a teacher's maps as bytes: 128 + 100 value


@dataclass(frozen=True, slots=True, eq=False)
class Lesson:
    """A batch of a pool with what the teacher said.

    hints: its maps; layer (n, c, h, w): a hidden layer of it for the n pictures `told` (B,), which
    are those not mirrored: a hidden layer cannot be.
    """

    batch: Batch
    hints: distil.Hints | None = None
    layer: Tensor | None = None
    told: Tensor | None = None


def write(
    folder: Path, store: Store, count: int, width: int, height: int, how: Augmentation,
    rng: torch.Generator, teacher: distil.Teacher | None = None,
) -> None:  # fmt: skip
    """Write a pool of `count` pictures of width x height px; the folder appears when it is whole.

    Ctrl-C or SIGTERM ends it early with the pictures made so far.

    Raises:
        OutputError: the folder is not empty or cannot be written.
    """
    if folder.exists() and any(folder.iterdir()):
        raise OutputError(f"{folder} is not empty: choose another --out")
    part = folder.with_name(folder.name + ".part")
    try:
        shutil.rmtree(part, ignore_errors=True)
        part.mkdir(parents=True)
        stop = Stop()
        with stop.armed():
            made = _fill(part, store, count, width, height, how, rng, teacher, stop)
            part.replace(folder)
            if made < count:
                _LOG.info("stopped: %s has %d pictures", folder, made)
    except OSError as error:
        raise OutputError(f"cannot write {folder} ({error.strerror}): choose another --out") from (
            None
        )


def _fill(
    folder: Path, store: Store, count: int, width: int, height: int, how: Augmentation,
    rng: torch.Generator, teacher: distil.Teacher | None, stop: Stop,
) -> int:  # fmt: skip
    """Fill the tables; returns how many pictures there are."""
    h, w = height // STRIDE, width // STRIDE
    bits = -(-(_K + _L) * h * w // 8)
    tables = {
        "images": _table(folder, "images", (count, height, width, 3)),
        "region": _table(folder, "region", (count, h, w)),
        "known": _table(folder, "known", (count, bits)),
    }
    people: dict[str, list[Array]] = {name: [] for name in _PEOPLE}
    about: dict[str, Any] = {
        "format": _FORMAT,
        "width": width,
        "height": height,
        "joints": [],
        "limbs": [],
        "layer_unit": [],
    }
    made_so_far = 0
    began = shown = time.monotonic()
    for first in range(0, count, _AT_ONCE):
        some = slice(first, min(first + _AT_ONCE, count))
        made = batches.compose(store, some.stop - first, width, height, how, rng)
        pixels = (made.images * 255).round().clamp(0, 255)
        tables["images"][some] = pixels.permute(0, 2, 3, 1).byte().cpu().numpy()
        tables["region"][some] = made.region.byte().cpu().numpy()
        known = torch.cat([made.known_joints, made.known_limbs], 1) > 0
        tables["known"][some] = np.packbits(known.flatten(1).cpu().numpy(), axis=1)
        for name in _PEOPLE:
            values = getattr(made.people, name).cpu().numpy()
            people[name].append(values + first if name == "picture" else values)
        if teacher is not None:
            hints = teacher(pixels / 255)
            if not first:
                about |= _about_teacher(hints)
                for name, maps in (("maps", _stacked(hints)), ("layer", hints.layer)):
                    if maps is not None:
                        tables[name] = _table(folder, name, (count, *maps.shape[1:]))
            maps = _stacked(hints) * _MAP_UNIT + 128
            tables["maps"][some] = maps.round().clamp(0, 255).byte().cpu().numpy()
            if hints.layer is not None:
                unit = torch.tensor(about["layer_unit"])[:, None, None]
                tables["layer"][some] = (hints.layer / unit).round().clamp(0, 255).byte().numpy()
        made_so_far = some.stop
        if stop.number is not None:
            break
        now = time.monotonic()
        if now - shown > _PROGRESS_S:
            rate = some.stop / (now - began)
            _LOG.info("%d of %d pictures, %.1f a second, %.1f min left",
                      some.stop, count, rate, (count - some.stop) / rate / 60)  # fmt: skip
            shown = now
    for table in tables.values():
        table.flush()
    columns: dict[str, Any] = {k: np.concatenate(v) for k, v in people.items()}
    np.savez(folder / "people.npz", **columns)
    # rows after the last picture are holes in the files and take no room on the disk
    about["count"] = made_so_far
    (folder / MANIFEST).write_text(json.dumps(about, indent=1) + "\n", encoding="utf-8")
    return made_so_far


def _table(folder: Path, name: str, shape: tuple[int, ...]) -> Any:
    return np.lib.format.open_memmap(folder / f"{name}.npy", "w+", np.uint8, shape)


def _stacked(hints: distil.Hints) -> Tensor:
    return torch.cat([hints.heatmaps, hints.pafs], 1)


def _about_teacher(hints: distil.Hints) -> dict[str, Any]:
    """Return the order of the maps, and one byte's worth of each channel of the hidden layer.

    The first pictures tell the range; the rare higher values are cut off.
    """
    unit: list[float] = []
    if hints.layer is not None:
        top = hints.layer.transpose(0, 1).flatten(1).quantile(0.995, dim=1)
        unit = (top.clamp_min(0.05) * (1.3 / 255)).tolist()
    return {"joints": list(hints.joints), "limbs": list(hints.limbs), "layer_unit": unit}


class Pool:
    """Reads pools of one size as if they were one.

    Args:
        folders: pools, all of the same size and teacher.
        device: where batches are wanted.
        seed: order of the pictures; every picture is shown once before any is shown again.

    Raises:
        SourceError: a folder holds no pool, or they differ.
    """

    def __init__(self, folders: Sequence[Path], device: torch.device, seed: int = 0) -> None:
        self._device = device
        self._parts = [_Part(folder) for folder in folders]
        first = self._parts[0].about
        for folder, part in zip(folders, self._parts):
            if any(part.about[k] != first[k] for k in ("width", "height", "joints", "limbs")):
                raise SourceError(f"{folder} is of another size or teacher than {folders[0]}")
        self.width, self.height = int(first["width"]), int(first["height"])
        self._joints, self._limbs = tuple(first["joints"]), tuple(first["limbs"])
        self._places = [(p, n) for p, part in enumerate(self._parts) for n in range(part.count)]
        self.layers = len(first["layer_unit"])
        self._random = np.random.default_rng(seed)
        self._queue: list[int] = []

    def __len__(self) -> int:
        return len(self._places)

    @torch.no_grad()
    def take(self, count: int, how: Augmentation, rng: torch.Generator) -> Lesson:
        """Return the next `count` pictures, mirrored and their colours varied as `how` says."""
        while len(self._queue) < count:
            self._queue += self._random.permutation(len(self._places)).tolist()
        chosen = [self._places[n] for n in self._queue[:count]]
        del self._queue[:count]
        h, w = self.height // STRIDE, self.width // STRIDE

        def gather(name: str) -> Tensor:
            rows = np.stack([self._parts[p].tables[name][n] for p, n in chosen])
            return torch.from_numpy(rows).to(self._device)

        images = gather("images").permute(0, 3, 1, 2).float() / 255
        packed = np.stack([self._parts[p].tables["known"][n] for p, n in chosen])
        flat = np.unpackbits(packed, axis=1, count=(_K + _L) * h * w)
        known = torch.from_numpy(flat).to(self._device).float().reshape(count, _K + _L, h, w)
        if not how.masks:
            known = torch.ones_like(known)
        made = Scenes(
            images, self._people(chosen), gather("region").long(), known[:, :_K], known[:, _K:],
            _nowhere(),
        )  # fmt: skip
        hints = layer = None
        if self._joints:
            maps = (gather("maps").float() - 128) / _MAP_UNIT
            n = len(self._joints)
            hints = distil.Hints(maps[:, :n], self._joints, maps[:, n:], self._limbs)
        turned = torch.zeros(count, dtype=torch.bool, device=self._device)
        if how.mirror:
            turned = torch.rand(count, generator=rng, device=self._device) < 0.5
            made = mirror.scenes(made, turned)
            hints = hints and mirror.hints(hints, turned)
        if self.layers:
            layer = gather("layer")[~turned].float() * (1.3 / 255)
        images = colours.vary(made.images, rng) if how.colour else made.images
        batch = Batch(images, batches.drawn(made), made.people, made.layout)
        return Lesson(batch, hints, layer, ~turned)

    def _people(self, chosen: list[tuple[int, int]]) -> People:
        rows = [self._parts[p].people(n) for p, n in chosen]
        picture = np.repeat(np.arange(len(rows)), [len(r["region"]) for r in rows])
        columns = {k: np.concatenate([r[k] for r in rows]) for k in _PEOPLE if k != "picture"}
        columns["picture"] = picture
        return People(**{k: torch.from_numpy(v).to(self._device) for k, v in columns.items()})


class _Part:
    """One folder."""

    def __init__(self, folder: Path) -> None:
        try:
            self.about = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
            if self.about["format"] != _FORMAT:
                raise ValueError(f"format {self.about['format']}")
            names = ["images", "region", "known"]
            names += ["maps"] if self.about["joints"] else []
            names += ["layer"] if self.about["layer_unit"] else []
            self.tables = {n: np.load(folder / f"{n}.npy", mmap_mode="r") for n in names}
            with np.load(folder / "people.npz") as z:
                self._people = {k: z[k] for k in _PEOPLE}
            self.count = int(self.about["count"])
        except (OSError, ValueError, KeyError) as error:
            raise SourceError(
                f"{folder} holds no pool ({error}): make one with manypose train prepare"
            ) from None
        self._first = np.searchsorted(self._people["picture"], np.arange(self.count + 1))

    def people(self, number: int) -> dict[str, Array]:
        """Return the people of one picture as columns."""
        some = slice(self._first[number], self._first[number + 1])
        return {k: v[some] for k, v in self._people.items()}


def _nowhere() -> Layout:
    """Return the layout of pictures that are already composed."""
    nothing = torch.zeros(0)
    return Layout(*(nothing for _ in fields(Layout)))
