"""Stage I as a callable, and the choice of the engine that runs it.

`auto` times the engines that are installed, with every precision there is, once on the user's
machine and remembers the winner. What runs where is said in one line, and in `info`.
"""

from __future__ import annotations

import importlib.metadata
import json
import logging
import platform
import time
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from manypose.errors import DeviceError, UsageError, WeightsError
from manypose.models import onnx_file, ort_gpu, weights
from manypose.models.preprocess import letterbox
from manypose.models.sessions import (
    RUNTIMES,
    Array,
    Info,
    Session,
    Wish,
    cache_folder,
    cores,
    engine,
    installed,
    writable,
)
from manypose.models.weights import Weights
from manypose.pose.grouping import GroupingConfig, group
from manypose.pose.joints import JOINTS, JOINTS_2D, LIMBS
from manypose.pose.records import Found2D, Frame, NetworkOutput

if TYPE_CHECKING:
    from manypose.models.adaptive import AdaptiveNetwork

log = logging.getLogger(__name__)

_PROBE_ROUNDS = 5
_OUTPUTS = {"heatmaps": len(JOINTS_2D), "pafs": 2 * len(LIMBS), "encodings": 3 * len(JOINTS)}


class StageOneNetwork:
    """Frames to maps: letter-box, run, check. Calling it with several frames runs them together.

    `info` says what runs where. Several threads may call it at once where `parallel` is set.
    """

    def __init__(self, session: Session, info: Info) -> None:
        self.info = info
        self.parallel = session.parallel
        self._session = session
        self._inputs: deque[Array] = deque()  # arrays nobody uses; a deque may be shared by threads
        self._bad = 0

    def __call__(self, frames: Sequence[Frame]) -> list[NetworkOutput]:
        """Return the maps of each frame."""
        return self.timed(frames)[0]

    def timed(self, frames: Sequence[Frame]) -> tuple[list[NetworkOutput], dict[str, float]]:
        """Return the maps of each frame, and milliseconds a frame of resize and network."""
        if not frames:
            return [], {}
        started = time.perf_counter()
        width, height = self.info.input_size
        shape = (len(frames), height, width, 3)
        try:
            x = self._inputs.pop()
        except IndexError:
            x = np.empty(shape, np.uint8)
        if x.shape != shape:
            x = np.empty(shape, np.uint8)
        affine = [letterbox(f.picture, height, width, x[i])[1] for i, f in enumerate(frames)]
        boxed = time.perf_counter()
        maps = {k: self._clean(k, v) for k, v in self._session.run(x).items()}
        self._inputs.append(x)
        spent = {
            "resize": 1e3 * (boxed - started) / len(frames),
            "network": 1e3 * (time.perf_counter() - boxed) / len(frames),
        }
        encodings = maps.get("encodings")
        outputs = [
            NetworkOutput(
                maps["heatmaps"][i], maps["pafs"][i],
                None if encodings is None else encodings[i], affine[i],
            )
            for i in range(len(frames))
        ]  # fmt: skip
        return outputs, spent

    def _clean(self, name: str, maps: Array) -> Array:
        """Return maps without NaN and infinity; they are logged, not passed on."""
        if np.isfinite(maps.sum(dtype=np.float32)):
            return maps
        self._bad += 1
        if self._bad in (1, 10, 100, 1000):
            log.warning("the network answered NaN or infinity in %s (%d times)", name, self._bad)
        return np.nan_to_num(maps, nan=0.0, posinf=0.0, neginf=0.0)


class StageOneFrontEnd:
    """Our own 2D front end: Stage I and the grouping of its joints into people."""

    def __init__(
        self, network: StageOneNetwork | AdaptiveNetwork, grouping: GroupingConfig
    ) -> None:
        self.network = network
        self.info = network.info
        self.batch = network.info.batch
        self.parallel = network.parallel
        self._grouping = grouping

    def __call__(self, frames: Sequence[Frame]) -> list[Found2D]:
        """Return the people of each frame with milliseconds of resize, network and group."""
        found = []
        outputs, spent = self.network.timed(frames)
        for output in outputs:
            started = time.perf_counter()
            people = tuple(group(output, self._grouping))
            group_ms = 1e3 * (time.perf_counter() - started)
            found.append(Found2D(people, {**spent, "group": group_ms}))
        return found


def load_network(
    model: str = "light",
    backend: str = "auto",
    device: str = "auto",
    threads: int | None = 0,
    precision: str = "auto",
    batch: int = 1,
    size: tuple[int, int] | None = None,
    encodings: bool = True,
) -> StageOneNetwork:
    """Return Stage I, loaded, checked and warmed up.

    Args:
        model: a name of `manypose models list` or an .onnx file.
        backend: auto, or a key of `RUNTIMES`.
        device: auto, cpu, cuda, cuda:1, tensorrt; auto takes CUDA where it works.
        threads: of the CPU; 0 or None for all cores this process may use.
        precision: auto, fp32, int8 (its own file), bf16 or fp16 (where the engine has it).
        batch: frames in work at once, for recorded video: in one call, or, where the network
            returned says `parallel`, in calls by so many threads.
        size: width and height of the input instead of the file's own; backend openvino only.
        encodings: whether the 3D half is wanted; without it OpenVINO saves a tenth.

    Raises:
        WeightsError: the file is missing, damaged or of another network.
        DeviceError: engine or device asked for cannot be had.
        UsageError: an option makes no sense.
    """
    rows = [replace(r, precision=_precision(r)) for r in weights.find(model, ("stage1",))]
    wanted = {"bf16": "fp32", "fp16": "fp32"}.get(precision, precision)
    if wanted != "auto":
        rows = [r for r in rows if r.precision == wanted]
        if wanted not in weights.PRECISIONS or not rows:
            raise UsageError(f"{model} has no {precision} file; use --precision auto")
    digest = {row.path: weights.verify(row) for row in rows}
    sizes = {row.path: size or _input_size(row) for row in rows}
    if backend != "auto" and backend not in RUNTIMES:
        raise UsageError(f"no runtime {backend!r}; there are auto, {', '.join(RUNTIMES)}")
    threads = threads if threads and threads > 0 else cores()
    wish = Wish(device, threads, precision, batch, size, () if encodings else ("heatmaps", "pafs"))
    row, runtime, session, chosen = _placed(rows, backend, wish, digest)
    info = Info(
        model, str(row.path), digest[row.path], runtime, session.engine, session.device,
        session.precision, threads, batch, sizes[row.path], row.licence, chosen,
    )  # fmt: skip
    log.info("network: %s", info.line())
    return StageOneNetwork(session, info)


def load_front_end(
    model: str = "light",
    backend: str = "auto",
    device: str = "auto",
    threads: int | None = 0,
    precision: str = "auto",
    batch: int = 1,
    grouping: GroupingConfig | None = None,
    target_fps: float = 0.0,
    encodings: bool = True,
) -> Any:
    """Return a 2D front end with info, batch and parallel: ours, or one of the user's own.

    Arguments and errors as `load_network`; a name or .toml file of `docs/own_networks.md` gives the
    user's network. target_fps: the input size is lowered and raised to keep so many frames a
    second, 0 for the file's own size.
    """
    rows = weights.find(model)
    if target_fps and rows[0].kind == "own":
        raise UsageError("--target-fps is for our networks; those of your own have one input size")
    if rows[0].kind == "own":
        from manypose.models import topdown

        weights.verify(rows[0])
        return topdown.load(rows[0].path, backend, device, threads or 0, rows[0].name, batch)
    network: StageOneNetwork | AdaptiveNetwork
    if target_fps:
        from manypose.models import adaptive

        network = adaptive.load(
            model, backend, device, threads, precision, batch, target_fps, encodings
        )
    else:
        network = load_network(
            model, backend, device, threads, precision, batch, encodings=encodings
        )
    return StageOneFrontEnd(network, grouping or GroupingConfig())


def input_size(path: Path) -> tuple[int, int]:
    """Return (width, height) that a Stage I file takes.

    Raises:
        WeightsError: it is another network.
    """
    info = onnx_file.describe(path)
    got = {t.name: t.shape for t in info.outputs}
    meta = info.metadata
    same = (
        meta.get("manypose.joints") == json.dumps(JOINTS_2D)
        and meta.get("manypose.limbs") == json.dumps(LIMBS)
        and all(len(got.get(k, ())) == 4 and got[k][1] == n for k, n in _OUTPUTS.items())
        and len(info.inputs) == 1
        and len(info.inputs[0].shape) == 4
    )
    if not same:
        raise WeightsError(
            f"{path}: not a Stage I network of this version of manypose; take one of `manypose "
            "models list`, or describe your own network in a .toml file (docs/own_networks.md)"
        )
    _, height, width, _ = info.inputs[0].shape
    if height is None or width is None or height % 16 or width % 16:
        raise WeightsError(
            f"{path}: its input size must be fixed, in multiples of 16; export it anew"
        )
    return width, height


def _input_size(row: Weights) -> tuple[int, int]:
    if row.path.suffix == ".xml" and row.input_size is not None:
        return row.input_size  # OpenVINO's form is only ever named by a manifest, which knows
    return input_size(row.path)


def _precision(row: Weights) -> str:
    """Return the precision of a row; a file that no manifest lists says it itself."""
    if row.sha256:
        return row.precision
    return onnx_file.describe(row.path).metadata.get("manypose.precision", "fp32")


def _placed(
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
        _seconds(session, wish.batch)
        return session

    if len(options) == 1:
        return *options[0], start(0), "nothing else to choose from"
    key = "|".join([
        "3", cpu_name(), wish.device, str(wish.threads), wish.precision, str(wish.batch),
        ",".join(wish.outputs),
        *(f"{name} {_version(name)} {digest[row.path][:16]}" for row, name in options),
    ])  # fmt: skip
    store = cache_folder() / "choice.json"
    memory = _remembered(store)
    past = memory.get(key)
    if isinstance(past, list) and len(past) == 2 and past[0] in range(len(options)):
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
    rounds = [
        {at: _seconds(s, wish.batch) / wish.batch for at, s in trials.items()}
        for _ in range(_PROBE_ROUNDS)
    ]
    least = {at: min(r[at] for r in rounds) for at in trials}
    order = sorted(least, key=lambda at: least[at])
    spent = ", ".join(
        f"{options[at][1]} {_titled(options[at][0])} {1e3 * least[at]:.1f} ms" for at in order
    )
    memory[key] = [order[0], spent]
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


def _seconds(session: Session, batch: int = 1) -> float:
    """Run the network on grey pictures; return the seconds it took.

    Where pictures go in parallel the one asked for stands for `batch` of them, each on its cores.
    """
    shape = [1 if session.parallel else batch, *(d or 1 for d in session.inputs[0].shape[1:])]
    started = time.perf_counter()
    session.run(np.full(shape, 114, np.uint8))
    return time.perf_counter() - started


def _remembered(store: Path) -> dict[str, Any]:
    try:
        memory = json.loads(store.read_text("utf-8"))
    except (OSError, ValueError):
        return {}
    return memory if isinstance(memory, dict) else {}


def cpu_name() -> str:
    """Return the name that the CPU gives itself, or the system's where it gives none."""
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.platform()


def _version(runtime: str) -> str:
    for name in {"onnx": ("onnxruntime", "onnxruntime-gpu")}.get(runtime, (runtime,)):
        try:
            return importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return "?"
