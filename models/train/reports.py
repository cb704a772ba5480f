"""What a run tells about itself: scores beside the decoder's ceiling, table, plot and sheet."""

from __future__ import annotations

import csv
import io
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from manypose.errors import OutputError
from manypose.models.heads import StageOne
from manypose.models.train import scores, sheets
from manypose.models.train.packs import Photo
from manypose.pose.grouping import GroupingConfig

if TYPE_CHECKING:
    from manypose.models.train.recipe import Recipe

_LOG = logging.getLogger(__name__)
_COLUMNS = (
    "step", "images", "minutes", "size", "lr", "heatmaps", "pafs", "encodings", "teacher", "layer",
    "images_s", "data_share", "AP", "ap_error", "ceiling_AP", "AP50", "AR", "pck", "recall",
    "ghosts", "missed", "invented", "merged", "swaps", "bone_mm", "bone_constant_mm",
    "bone_seen_mm", "bone_seen_constant_mm",
)  # fmt: skip
_SHEET = 24  # photos


class Table:
    """metrics.csv: one line for each report; a resumed run goes on in it."""

    NAME = "metrics.csv"

    @staticmethod
    def start(out: Path) -> None:
        """Begin a new table.

        Raises:
            OutputError: the folder cannot be written.
        """
        Table._write(out, ",".join(_COLUMNS) + "\n", "w")

    @staticmethod
    def add(out: Path, row: dict[str, Any]) -> None:
        """Append a row; unknown columns are left out, missing ones stay empty.

        A table begun by an older version keeps its columns.
        """
        try:
            with (out / Table.NAME).open(encoding="utf-8") as file:
                columns = file.readline().strip().split(",")
        except OSError:
            columns = list(_COLUMNS)
        text = io.StringIO()
        csv.DictWriter(text, columns, extrasaction="ignore", lineterminator="\n").writerow(
            {k: f"{v:.5g}" if isinstance(v, float) else v for k, v in row.items()}
        )
        Table._write(out, text.getvalue(), "a")

    @staticmethod
    def _write(out: Path, text: str, mode: str) -> None:
        try:
            out.mkdir(parents=True, exist_ok=True)
            with (out / Table.NAME).open(mode, encoding="utf-8", newline="") as file:
                file.write(text)
        except OSError as error:
            raise OutputError(f"cannot write {out} ({error.strerror}): choose another --out") from (
                None
            )


class Report:
    """Scores a network on the hold-outs and writes what a user looks at."""

    def __init__(
        self, recipe: Recipe, out: Path, val: Sequence[Photo], val_3d: Sequence[Photo]
    ) -> None:
        self._recipe, self._out = recipe, out
        self._val, self._val_3d = list(val), list(val_3d)
        self._ceilings: dict[tuple[int, int], dict[str, float]] = {}

    def ceiling(self, size: tuple[int, int]) -> dict[str, float]:
        """Return the decoder's scores on perfect maps at this input size (computed once)."""
        if size not in self._ceilings:
            self._ceilings[size] = scores.ceiling(self._val, *size) if self._val else {}
        return self._ceilings[size]

    def make(
        self, net: StageOne, device: torch.device, size: tuple[int, int], row: dict[str, Any]
    ) -> dict[str, float]:
        """Score, write table, plot and sheet, log one line; return the scores."""
        predict = scores.of_network(net, *size, device)
        found = scores.evaluate(self._val, predict) if self._val else {}
        if self._val_3d:
            bones = scores.evaluate(self._val_3d, predict)
            found |= {k: v for k, v in bones.items() if k.startswith("bone")}
        top = self.ceiling(size)
        if top:
            found["ceiling_AP"] = top["AP"]
        Table.add(self._out, {**row, **found})
        sheets.plot(self._out / Table.NAME, self._out / "losses.png")
        shown = (self._val or self._val_3d)[:_SHEET]
        people = list(scores.decode(shown, predict, GroupingConfig()))
        sheets.people_sheet(self._out / f"people_{row['step']:07d}.jpg", people)
        _LOG.info(
            "step %d, %d images, %s min: losses %.3f %.3f %.3f; at %dx%d: %s",
            row["step"], row["images"], row["minutes"], row["heatmaps"], row["pafs"],
            row["encodings"], *size, scores.line(found, top) or "no photos to score on",
        )  # fmt: skip
        return found
