"""What a result file says of itself: source, camera, network, settings, units and axes."""

from __future__ import annotations

import hashlib
import json
import platform
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

import manypose
from manypose.app.config import Config
from manypose.app.formats import SCHEMA
from manypose.app.pipeline import Engine
from manypose.app.sources import SourceInfo
from manypose.calib.camera import FOV_GUESS_DEG, Camera
from manypose.pose.joints import JOINTS, JOINTS_2D, PARENT, STATE_NAMES

_WHOLE_BYTES = 1 << 30  # larger files are known by their ends: hashing must not cost minutes
_END_BYTES = 1 << 26
# What of the network the numbers depend on; the rest (threads, why it was chosen) may change
# between two runs whose results are equal.
_MODEL_FACTS = (
    "model", "sha256", "runtime", "device", "precision", "input_size", "licence", "portraits",
)  # fmt: skip


def run_header(info: SourceInfo, camera: Camera, config: Config, engine: Engine) -> dict[str, Any]:
    """Return what is known before the first result and equal whenever the run is repeated.

    "key" stands for all that the numbers depend on: source, camera, settings, network.
    """
    header: dict[str, Any] = {
        "schema": SCHEMA,
        "manypose": manypose.__version__,
        "source": source_facts(info),
        "camera": camera_facts(camera),
        "scale_source": "height" if config.fit.height_m else camera.source,
        "height_m": config.fit.height_m or None,
        "model": {k: engine.info[k] for k in _MODEL_FACTS if k in engine.info},
        "settings": config.as_dict(),
        "still": engine.follower_config.still or info.stills,
        "units": {"kp3d": "m", "root": "m", "kp2d": "px", "box": "px", "t": "s", "quat": "x y z w"},
        "axes": "camera frame: x right, y down, z forward; px: top-left pixel's centre = (0, 0)",
        "joint_names": list(JOINTS),
        "kp2d_names": list(JOINTS_2D),
        "parents": list(PARENT),
        "state_names": list(STATE_NAMES),
    }
    if info.files:
        header["files"] = list(info.files)
    numbers = {k: v for k, v in header.items() if k not in ("units", "axes", "source")}
    numbers["source"] = {k: v for k, v in header["source"].items() if k != "address"}
    numbers["settings"] = {k: v for k, v in numbers["settings"].items() if k != "output"}
    text = json.dumps(numbers, sort_keys=True, default=str)
    return {**header, "key": hashlib.sha256(text.encode()).hexdigest()[:32]}


def describe(
    header: Mapping[str, Any],
    summary: Mapping[str, Any],
    engine: Engine,
    stage_ms: Mapping[str, float],
    command: Sequence[str],
    up: NDArray[np.floating[Any]] | None = None,
) -> dict[str, Any]:
    """Return meta.json of a finished run: its header, how it went and on what.

    up: where up is in the axes of the camera, (3,), if that is known by now.
    """
    import av
    import cv2

    result = {k: v for k, v in summary.items() if k not in ("folder", "exit_code")}
    return {
        **header,
        "status": summary["status"],
        "summary": result,
        "engine": dict(engine.info),
        "stage_ms": dict(stage_ms),
        "up": up_facts(up),
        "command": list(command),
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "versions": {
            "python": platform.python_version(),
            "platform": platform.platform(),
            "numpy": np.__version__,
            "opencv": cv2.__version__,
            "av": av.__version__,
        },
    }


def source_facts(info: SourceInfo) -> dict[str, Any]:
    """Return a source as plain values, with the hash of its file."""
    facts = {k: v for k, v in asdict(info).items() if k not in ("files", "stills")}
    path = Path(info.address)
    if info.kind in ("video", "images") and path.is_file():
        facts |= file_facts(path)
    elif info.kind == "images" and path.is_dir():
        stamp = hashlib.sha256()
        for name in info.files:
            stamp.update(f"{name}\0{(path / name).stat().st_size}\0".encode())
        facts |= {"sha256": stamp.hexdigest(), "sha256_of": "names and sizes of the pictures"}
    return facts


def file_facts(path: Path) -> dict[str, Any]:
    """Return the size and SHA-256 of a file; of a very large one that of its two ends."""
    size = path.stat().st_size
    with path.open("rb") as file:
        if size <= _WHOLE_BYTES:
            return {"bytes": size, "sha256": hashlib.file_digest(file, "sha256").hexdigest()}
        stamp = hashlib.sha256(file.read(_END_BYTES))
        file.seek(-_END_BYTES, 2)
        stamp.update(file.read(_END_BYTES))
    return {"bytes": size, "sha256": stamp.hexdigest(), "sha256_of": "first and last 64 MiB"}


def up_facts(up: NDArray[np.floating[Any]] | None) -> list[float] | None:
    """Return a unit vector up as plain values; None = not known."""
    return None if up is None else [round(v, 5) for v in up.tolist()]


def camera_facts(camera: Camera) -> dict[str, Any]:
    """Return a camera as plain values; `source` says whether it was guessed."""
    facts: dict[str, Any] = {
        "source": camera.source,
        "width": camera.width,
        "height": camera.height,
        "K": camera.K.tolist(),
        "distortion": camera.distortion.tolist(),
        "R": camera.R.tolist(),
        "t": camera.t.tolist(),
    }
    if camera.source == "fov-guess":
        facts["note"] = f"a field of view of {FOV_GUESS_DEG:g} degrees was guessed"
    return facts
