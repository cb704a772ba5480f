"""The TOML file that describes a 2D network of the user's own (docs/own_networks.md), as records.

Every key is checked: an unknown one is refused by naming the nearest, and files must lie beside the
TOML, so that a description from elsewhere cannot read other places.
"""

from __future__ import annotations

import difflib
import math
import tomllib
from collections.abc import Mapping
from dataclasses import MISSING, dataclass, fields
from pathlib import Path
from typing import Any, TypeVar

from manypose.errors import ConfigError, WeightsError
from manypose.models import weights

POSE_KINDS = ("heatmap", "simcc", "one-stage")
DETECTOR_KINDS = ("boxes", "dets", "yolox")
FITS = ("letterbox", "corner", "stretch")


@dataclass(frozen=True, slots=True)
class Picture:
    """How a network takes pictures. mean and std are of 0..255 values in the order of `colour`."""

    file: Path
    input: tuple[int, int]  # width, height
    sha256: str = ""
    licence: str = ""
    colour: str = "rgb"
    layout: str = "nchw"
    mean: tuple[float, float, float] = (0.0, 0.0, 0.0)
    std: tuple[float, float, float] = (1.0, 1.0, 1.0)
    border: int = 0  # grey where the picture does not reach
    outputs: tuple[
        str, ...
    ] = ()  # names in the order their kind wants them; none: the file's order


@dataclass(frozen=True, slots=True)
class PoseConfig(Picture):
    """A network that answers the 17 COCO joints of one person's crop, or of everybody."""

    kind: str = "heatmap"
    crop: float = 1.25  # the person's box is made this much larger
    cell: float = 0.0  # heatmap: input px per cell; 0: input width / map width
    offset: float = 0.0  # heatmap: where the first cell's centre lies, input px
    blur: int = 7  # heatmap: cells smoothed over before the sub-cell step; odd, 1 for none
    split: float = 2.0  # simcc: bins per input px
    mirror: bool = False  # average with the mirrored picture: twice the time
    mirror_shift: float = 0.0  # cells (heatmap) that the mirrored answer is moved to the right
    joint_score_min: float = 0.05  # below: the joint is not seen
    score_min: float = 0.05  # people below are left out
    oks_max: float = 0.7  # of two people more alike, the worse is left out
    fit: str = "letterbox"  # one-stage: how the picture fills the input
    people_max: int = 20


@dataclass(frozen=True, slots=True)
class DetectorConfig(Picture):
    """A network that answers boxes of people."""

    kind: str = "dets"
    fit: str = "letterbox"
    person: int = 0  # the class of people
    score_min: float = 0.2
    iou_max: float = 0.6  # of two boxes that overlap more, the worse is left out
    strides: tuple[int, ...] = ()  # yolox: of the grids, when the file does not decode its boxes
    people_max: int = 20


@dataclass(frozen=True, slots=True)
class OwnNetwork:
    """A description: the pose network and, for top-down ones, the detector."""

    name: str
    pose: PoseConfig
    detector: DetectorConfig | None


_Config = TypeVar("_Config", PoseConfig, DetectorConfig)


def read(path: Path) -> OwnNetwork:
    """Return the description in a TOML file.

    Raises:
        ConfigError: a key or a value is wrong.
        WeightsError: the TOML or a file it names is not there, or has another SHA-256.
    """
    try:
        text = path.read_text("utf-8")
    except (OSError, UnicodeDecodeError) as e:
        raise WeightsError(f"{path}: cannot be read ({e}); give a TOML file") from e
    try:
        table = tomllib.loads(text)
    except (tomllib.TOMLDecodeError, RecursionError) as e:
        raise ConfigError(f"{path}: not a TOML file ({e}); see docs/own_networks.md") from e
    for key in table:
        if key not in ("pose", "detector"):
            raise ConfigError(f"{path}: unknown table [{key}]; there are [pose] and [detector]")
    if "pose" not in table:
        raise ConfigError(f"{path}: the table [pose] is missing; see docs/own_networks.md")
    pose = _table(path, "pose", table["pose"], PoseConfig, POSE_KINDS)
    detector = None
    if "detector" in table:
        detector = _table(path, "detector", table["detector"], DetectorConfig, DETECTOR_KINDS)
    if (detector is None) != (pose.kind == "one-stage"):
        need = "needs no [detector]" if detector else f"of kind {pose.kind} needs a [detector]"
        raise ConfigError(f"{path}: a pose network {need}; see docs/own_networks.md")
    return OwnNetwork(path.stem, pose, detector)


def _table(
    path: Path, title: str, table: Any, kind: type[_Config], kinds: tuple[str, ...]
) -> _Config:
    if not isinstance(table, Mapping):
        raise ConfigError(f"{path}: [{title}] must be a table; see docs/own_networks.md")
    known = {f.name: f for f in fields(kind)}
    for key in table:
        if key not in known:
            near = difflib.get_close_matches(key, known, 1)
            raise ConfigError(
                f"{path}: unknown key {key!r} in [{title}]"
                + (f"; did you mean {near[0]}?" if near else f"; there are {', '.join(known)}")
            )
    for name, f in known.items():
        if f.default is MISSING and name not in table:
            raise ConfigError(f"{path}: [{title}] lacks the key {name!r}")
    values = {k: _value(f"{path}: [{title}] {k}", known[k].type, v) for k, v in table.items()}
    values["file"] = weights.inside(path.parent, str(table["file"]))
    config = kind(**values)
    _limits(f"{path}: [{title}]", config, kinds)
    if not config.file.is_file():
        raise WeightsError(f"{path}: its {title} file {config.file.name} is not there")
    weights.verify(weights.Weights(title, config.file, sha256=config.sha256))
    return config


def _value(what: str, kind: Any, value: Any) -> Any:
    """Return a TOML value as the field's type (annotations are strings here)."""
    kind = str(kind)
    number = isinstance(value, (int, float)) and not isinstance(value, bool)
    if kind == "bool" and isinstance(value, bool):
        return value
    if kind == "int" and isinstance(value, int) and number:
        return value
    if kind == "float" and number and math.isfinite(value):
        return float(value)
    if kind in ("str", "Path") and isinstance(value, str):
        return value
    if kind.startswith("tuple") and isinstance(value, list):
        inner = kind[6:].split(",")[0].strip("] ")
        length = None if "..." in kind else kind.count(",") + 1
        if length is None or len(value) == length:
            return tuple(_value(what, inner, v) for v in value)
    raise ConfigError(f"{what}: {value!r} is not {_wanted(kind)}; see docs/own_networks.md")


def _wanted(kind: str) -> str:
    names = {"bool": "true or false", "int": "a whole number", "float": "a number"}
    if kind.startswith("tuple"):
        return "a list of names" if "str" in kind else f"a list like {kind[5:]}"
    return names.get(kind, "a text")


def _limits(what: str, config: PoseConfig | DetectorConfig, kinds: tuple[str, ...]) -> None:
    choices = {
        "kind": (config.kind, kinds),
        "fit": (config.fit, FITS),
        "colour": (config.colour, ("rgb", "bgr")),
        "layout": (config.layout, ("nchw", "nhwc")),
    }
    for key, (value, allowed) in choices.items():
        if value not in allowed:
            raise ConfigError(f"{what} {key}: {value!r} is none of {', '.join(allowed)}")
    wrong = []
    if not all(16 <= s <= 4096 for s in config.input):
        wrong.append("input: sides must be between 16 and 4096 px")
    if min(map(abs, config.std)) < 1e-6:
        wrong.append("std: must not be 0")
    if not 0 <= config.border <= 255:
        wrong.append("border: must be between 0 and 255")
    if not 1 <= config.people_max <= 1000:
        wrong.append("people_max: must be between 1 and 1000")
    if isinstance(config, PoseConfig):
        if not 0.5 <= config.crop <= 4:
            wrong.append("crop: must be between 0.5 and 4")
        if config.blur % 2 == 0 or not 1 <= config.blur <= 31:
            wrong.append("blur: must be odd, between 1 and 31")
        if config.split <= 0 or config.cell < 0:
            wrong.append("split must be above 0 and cell not below 0")
    elif not all(1 <= s <= 128 for s in config.strides):
        wrong.append("strides: must be between 1 and 128")
    if wrong:
        raise ConfigError(f"{what} {wrong[0]}")
