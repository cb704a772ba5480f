"""Which engine runs which file of a network: asked for, remembered, or timed once.

`auto` times the engines that are installed, with every file there is, once on the user's machine
and remembers the winner.
"""

from __future__ import annotations

import importlib.metadata
import json
import logging
import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from manypose.errors import DeviceError
from manypose.models import ort_gpu
from manypose.models.machine import cache_folder, cpu_name, writable
from manypose.models.sessions import (
    RUNTIMES,
    Session,
    Wish,
    engine,
    installed,
)
from manypose.models.weights import Weights

log = logging.getLogger(__name__)
T = TypeVar("T")

# Small networks are timed more often: other programs disturb them more.
_ROUNDS_MIN, _ROUNDS_MAX, _PROBE_S = 5, 40, 0.5
_decided: dict[str, Any] = {}  # what this process chose, by the question
_told: dict[str, Any] = {}  # what another did, which counts more


def decided() -> dict[str, Any]:
    """Return what this process chose among several files and engines, for `as_decided`."""
    return dict(_decided)


def as_decided(choices: Mapping[str, Any], load: Callable[..., T], *words: Any) -> T:
    """Return what `load` loads, files and engines chosen as another process did.

    Two files of one network round differently, so that frames shared out among processes must be
    read by the same one.
    """
    _told.update(choices)
    return load(*words)


def placed(
    rows: Sequence[Weights], backend: str, wish: Wish, digest: Mapping[Path, str]
) -> tuple[Weights, str, Session, str]:
    """Return row, runtime, session and reason; "auto" falls back to the CPU with a warning."""
    names = [backend] if backend != "auto" else installed()
    if wish.device != "auto":
        return _choose(rows, names, wish, digest)
    if _cuda_works(names):
        try:
            return _choose(rows, names, replace(wish, device="cuda"), digest)
        except DeviceError as e:
            log.warning("the GPU is not used: %s", e)
    return _choose(rows, names, replace(wish, device="cpu"), digest)


def _choose(
    rows: Sequence[Weights], names: Sequence[str], wish: Wish, digest: Mapping[Path, str]
) -> tuple[Weights, str, Session, str]:
    """Return row, runtime, session and reason: asked for, remembered or timed."""
    if wish.device == "cpu" and len(names) > 1:
        names = [n for n in names if n != "torch"]  # slow to load, never the fastest on a CPU
    options = [(row, name) for name in names for row in rows if _fits(name, row, wish)]
    if not options:
        raise DeviceError(
            f"no engine for device {wish.device} and precision {wish.precision} is installed; pip "
            "install 'manypose[cpu]' or 'manypose[gpu]', or use --device auto --precision auto"
        )

    def start(at: int) -> Session:
        row, name = options[at]
        session = RUNTIMES[name](row.path, _precise(wish, row))
        _seconds(session, wish)
        return session

    if len(options) == 1:
        return *options[0], start(0), "nothing else to choose from"
    key = "|".join([
        "5", cpu_name(), wish.device, str(wish.threads), wish.precision, str(wish.batch),
        str(wish.together), ",".join(wish.outputs), "x".join(map(str, wish.size or ())),
        *(f"{name} {_version(name)} {digest[row.path][:16]}" for row, name in options),
    ])  # fmt: skip
    store = cache_folder() / "choice.json"
    memory = _remembered(store)
    past = _told.get(key, memory.get(key))
    if isinstance(past, list) and len(past) == 2 and past[0] in range(len(options)):
        _decided[key] = past
        return *options[int(past[0])], start(int(past[0])), f"remembered: {past[1]}"
    trials: dict[int, Session] = {}
    for at, (_, name) in enumerate(options):
        try:
            trials[at] = start(at)
        except DeviceError as e:
            log.warning("%s is left out: %s", name, e)
    if not trials:
        raise DeviceError(f"no installed engine runs on {wish.device}; use --device cpu")
    # Rounds in turn and the least time: other programs disturb all alike, and the least counts.
    least = dict.fromkeys(trials, math.inf)
    started = time.perf_counter()
    for n in range(_ROUNDS_MAX):
        if n >= _ROUNDS_MIN and time.perf_counter() - started > _PROBE_S:
            break
        least = {at: min(least[at], _seconds(s, wish)) for at, s in trials.items()}
    order = sorted(least, key=lambda at: least[at])
    spent = ", ".join(
        f"{options[at][1]} {_titled(options[at][0])} {1e3 * least[at]:.1f} ms" for at in order
    )
    memory[key] = _decided[key] = [order[0], spent]
    if writable(store.parent):
        part = store.with_name(store.name + ".part")
        part.write_text(json.dumps(memory, indent=1), "utf-8")
        part.replace(store)
    return *options[order[0]], trials[order[0]], f"timed: {spent}"


def _titled(row: Weights) -> str:
    return row.precision + (" (its own file)" if row.path.suffix == ".xml" else "")


def _precise(wish: Wish, row: Weights) -> Wish:
    return replace(
        wish, precision=wish.precision if wish.precision in ("bf16", "fp16") else row.precision
    )


def _fits(runtime: str, row: Weights, wish: Wish) -> bool:
    """Return whether a runtime is worth trying with a file on a device."""
    if wish.precision == "bf16" and runtime == "onnx":
        return False
    if wish.precision == "fp16" and (runtime == "openvino" or wish.device == "cpu"):
        return False
    if row.precision == "int8" and (runtime == "torch" or wish.device != "cpu"):
        return False  # torch would compute in float; GPUs are faster in float than with QDQ nodes
    if row.path.suffix == ".xml" and runtime != "openvino":
        return False
    return runtime != "openvino" or not wish.device.startswith(("cuda", "tensorrt"))


def _cuda_works(names: Sequence[str]) -> bool:
    """Return whether CUDA can be used at all; a GPU that cannot be used is logged."""
    if "onnx" in names:
        ort = engine("onnxruntime", "onnx")
        there: list[str] = getattr(ort, "get_available_providers", list)()
        if "CUDAExecutionProvider" in there and _nvidia():
            return True
        if _nvidia():
            log.warning("there is an NVIDIA GPU, but it is not used: %s", ort_gpu.clash())
    if "torch" in names and _nvidia():
        return bool(engine("torch", "torch").cuda.is_available())
    return False


def _nvidia() -> bool:
    return Path("/proc/driver/nvidia/version").exists() or Path("/dev/dxg").exists()


def _seconds(session: Session, wish: Wish) -> float:
    """Run the network on grey pictures, as many as come together; return the seconds for each.

    Where pictures go in parallel the one asked for stands for `batch` of them, each on its cores.
    """
    count = max(1 if session.parallel else wish.batch, wish.together)
    shape = [count, *(d or 1 for d in session.inputs[0].shape[1:])]
    started = time.perf_counter()
    session.run(np.full(shape, 114, np.uint8))
    return (time.perf_counter() - started) / max(count, wish.batch)


def _remembered(store: Path) -> dict[str, Any]:
    try:
        memory = json.loads(store.read_text("utf-8"))
    except (OSError, ValueError):
        return {}
    return memory if isinstance(memory, dict) else {}


def _version(runtime: str) -> str:
    for name in {"onnx": ("onnxruntime", "onnxruntime-gpu")}.get(runtime, (runtime,)):
        try:
            return importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return "?"
