"""Checkpoints: everything needed to go on, and the averaged weights in parts that can be sent.

Files are torch archives of tensors and plain numbers, read with `weights_only`, written whole or
not at all.
"""

from __future__ import annotations

import hashlib
import json
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from manypose.errors import ARCHIVE_DAMAGE, OutputError, WeightsError
from manypose.models.heads import StageOne
from manypose.models.train.packs import sha256

LAST = "last.pt"
EMA = "ema.pt"
PART_BYTES = 15_000_000


def save(path: Path, content: dict[str, Any]) -> None:
    """Write a torch archive; a kill while writing leaves the last good file.

    Raises:
        OutputError: the folder cannot be written or the disk is full.
    """
    half = path.with_name(path.name + ".part")
    try:
        torch.save(content, half)
        half.replace(path)
    except (OSError, RuntimeError) as error:
        raise OutputError(f"cannot write {path} ({error}): free some space") from None


def save_weights(
    folder: Path, net: nn.Module, about: dict[str, Any], centre: nn.Module | None = None
) -> None:
    """Write the weights in half precision as ema.pt, its parts ema.pt.NN and their list.

    about: plain values that belong to the weights; `backbone` and `width` rebuild the network.
    centre: the layer that answers centres, if there is one, as "centre" beside "ema".
    """
    beside = {} if centre is None else {"centre": half(centre)}
    path = folder / EMA
    save(path, {"ema": half(net), **beside, **about})
    data = path.read_bytes()
    names = []
    for n, first in enumerate(range(0, len(data), PART_BYTES)):
        part = folder / f"{EMA}.{n:02d}"
        temporary = part.with_name(part.name + ".part")
        temporary.write_bytes(data[first : first + PART_BYTES])
        temporary.replace(part)
        names.append(part.name)
    for old in folder.glob(f"{EMA}.[0-9][0-9]"):
        if old.name not in names:
            old.unlink()
    listing = {"file": EMA, "sha256": hashlib.sha256(data).hexdigest(), "parts": names}
    (folder / f"{EMA}.parts.json").write_text(json.dumps(listing, indent=1) + "\n", "utf-8")


def half(net: nn.Module) -> dict[str, torch.Tensor]:
    """Return the weights of a network, floats in half precision."""
    return {k: v.half() if v.is_floating_point() else v for k, v in net.state_dict().items()}


def save_arrays(path: Path, weights: dict[str, torch.Tensor], about: dict[str, Any]) -> None:
    """Write weights to train on from as plain arrays (.npz), floats in half precision.

    about: numbers and texts that belong to them; `backbone` and `width` rebuild the network; a
    layer that answers centres, "centre", is kept too.
    """
    arrays: dict[str, Any] = {
        f"{part}/{k}": (v.half() if v.is_floating_point() else v).numpy()
        for part, layers in (("ema", weights), ("centre", about.get("centre") or {}))
        for k, v in layers.items()
    }
    told = {k: v for k, v in about.items() if isinstance(v, (int, float, str))}
    part = path.with_name(path.name + ".part")
    with part.open("wb") as file:
        np.savez_compressed(file, about=np.array(json.dumps(told)), **arrays)
    part.replace(path)


def _from_arrays(path: Path) -> dict[str, Any]:
    try:
        with np.load(path, allow_pickle=False) as z:
            about = json.loads(str(z["about"]))
            found: dict[str, dict[str, torch.Tensor]] = {"ema": {}}
            for k in z.files:
                part, slash, name = k.partition("/")
                if slash:
                    found.setdefault(part, {})[name] = torch.from_numpy(z[k])
        if not isinstance(about, dict):
            raise ValueError("about is no table")
    except ARCHIVE_DAMAGE as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise WeightsError(f"{path} cannot be read as weights ({reason}): check --init") from None
    return {**about, **found}


def join(listing: Path, out: Path | None = None) -> tuple[Path, str]:
    """Return the path of the file joined from its parts, and its SHA-256, which is checked.

    listing: the .parts.json, or the folder that holds it.

    Raises:
        WeightsError: a part is missing, or the joined file is not the one that was cut.
    """
    if listing.is_dir():
        listing = listing / f"{EMA}.parts.json"
    try:
        content = json.loads(listing.read_text("utf-8"))
        data = b"".join((listing.parent / name).read_bytes() for name in content["parts"])
        wanted = str(content["sha256"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise WeightsError(f"{listing}: cannot join its parts ({error}): fetch all again") from None
    if hashlib.sha256(data).hexdigest() != wanted:
        raise WeightsError(f"{listing}: a part is damaged (SHA-256 differs): fetch all again")
    path = out or listing.parent / str(content["file"])
    half = path.with_name(path.name + ".part")
    try:
        half.write_bytes(data)
        half.replace(path)
    except OSError as error:
        raise OutputError(f"cannot write {path} ({error.strerror}): free some space") from None
    return path, sha256(path)


def read(path: Path, device: str | torch.device = "cpu") -> dict[str, Any]:
    """Return the content of a torch archive, or of arrays that `save_arrays` wrote.

    Raises:
        WeightsError: the file is missing, damaged or holds more than tensors and plain values.
    """
    if path.suffix == ".npz":
        return _from_arrays(path)
    try:
        content = torch.load(path, map_location=device, weights_only=True)
    except (
        OSError, RuntimeError, EOFError, ValueError, KeyError, TypeError, IndexError,
        AttributeError, pickle.UnpicklingError,
    ) as error:  # fmt: skip
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise WeightsError(f"{path} cannot be read as weights ({reason}): check --init") from None
    if not isinstance(content, dict):
        raise WeightsError(f"{path} holds no training weights: check --init")
    return content


def network(path: Path, device: str | torch.device = "cpu") -> tuple[StageOne, dict[str, Any]]:
    """Return the network with the averaged weights of a file, and what the file says of itself.

    Raises:
        WeightsError: the file is missing, damaged or of another network.
    """
    content = read(path, device)
    weights = content.pop("ema", None)
    if not isinstance(weights, dict):
        raise WeightsError(f"{path} has no averaged weights: choose the ema.pt of a training run")
    backbone = str(content.get("backbone", "selecsls60"))
    width = float(content.get("width", content.get("scale", 1.0)))
    net = StageOne(backbone, width)
    load_weights(net, weights, path)
    return net.to(device), content


def load_weights(net: nn.Module, weights: dict[str, Any], path: Path) -> None:
    """Load weights of any precision strictly.

    Raises:
        WeightsError: names or shapes differ.
    """
    full = {k: v.float() if v.is_floating_point() else v for k, v in weights.items()}
    try:
        net.load_state_dict(full)
    except RuntimeError as error:
        reason = str(error).splitlines()[1:2] or [str(error)]
        raise WeightsError(
            f"{path} is of another network ({reason[0].strip()}): give its --backbone and --width"
        ) from None
