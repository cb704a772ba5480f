"""Run any network file: one callable for every runtime, arrays in and named arrays out.

A runtime turns a file into a `Session`; what it needs is imported in its function, so that only the
engine in use must be installed. A device that cannot be had is an error, and so is a session that
fell back to the CPU in silence.
"""

from __future__ import annotations

import contextlib
import importlib
import importlib.util
import sys
from collections.abc import Callable, Generator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from manypose.errors import DeviceError, ManyposeError, UsageError, WeightsError
from manypose.models import onnx_file, ort_gpu
from manypose.models.machine import cache_folder, cores, writable
from manypose.models.onnx_file import Tensor
from manypose.models.openvino_requests import Requests, name

Array = NDArray[Any]
PIP = {"onnx": "onnxruntime", "openvino": "openvino", "torch": "torch onnx", "nncf": "nncf"}
_REPORTS = "openvino_telemetry"
_REPORTING = ("openvino", "nncf")
_CORE: dict[str, Any] = {}  # filled by openvino_core
_MODULES = {"onnx": ("onnxruntime",), "openvino": ("openvino",), "torch": ("torch", "onnx")}


@dataclass(frozen=True, slots=True)
class Wish:
    """What a session is asked for.

    threads 0: all cores; batch: pictures in work at once; size: width and height of the input, for
    files that leave them free (ONNX: dimensions named so) and OpenVINO's. outputs: names of those
    that are wanted, () for all; OpenVINO then leaves out what only the others need. together: so
    many pictures go to OpenVINO in one request where they are there, else each in one of its own.
    """

    device: str = "cpu"
    threads: int = 0
    precision: str = "fp32"
    batch: int = 1
    size: tuple[int, int] | None = None
    outputs: tuple[str, ...] = ()
    together: int = 1


@dataclass(frozen=True, slots=True, eq=False)
class Session:
    """A loaded network. `run` takes the input array and returns the outputs by name.

    parallel: `run` may be called by several threads at once, and that is the fastest way to have
    several pictures in work; otherwise they go into one call.
    """

    run: Callable[[Array], dict[str, Array]]
    inputs: tuple[Tensor, ...]
    outputs: tuple[str, ...]
    device: str
    precision: str
    engine: str
    parallel: bool = False


@dataclass(frozen=True, slots=True)
class Info:
    """What runs where, for logs, results and benchmarks."""

    model: str
    file: str
    sha256: str
    runtime: str
    engine: str
    device: str
    precision: str
    threads: int
    batch: int
    input_size: tuple[int, int]  # width, height
    licence: str
    chosen: str  # why: "asked for", "timed: ...", "remembered: ..."

    def line(self) -> str:
        """Return the one line that a run logs."""
        return (
            f"{self.model} ({self.precision}, {self.input_size[0]}x{self.input_size[1]}) on "
            f"{self.device} by {self.engine}, {self.threads} threads; {self.chosen}; "
            f"{Path(self.file).name} {self.sha256[:12]}"
        )


def engine(module: str, runtime: str) -> Any:
    """Return the module of an engine.

    Raises:
        DeviceError: it is not installed.
    """
    try:
        with _silent() if module in _REPORTING else contextlib.nullcontext():
            return importlib.import_module(module)
    except ImportError as e:
        raise DeviceError(
            f"the {runtime} runtime is not installed ({e}); pip install {PIP[runtime]}"
        ) from e


def openvino_core() -> Any:
    """Return OpenVINO's Core, one for the whole life of the process.

    The first time a Core compiles for the CPU it gives signal handlers a stack of their own, and
    takes it away when it goes. Of several the stack of one that has gone may be left, and then
    Ctrl-C ends the process without a word (seen in OpenVINO 2026.4).

    Raises:
        DeviceError: OpenVINO is not installed.
    """
    if not _CORE:
        _CORE.setdefault("", engine("openvino", "openvino").Core())
    return _CORE[""]


@contextlib.contextmanager
def _silent() -> Generator[None]:
    """Keep the reports of OpenVINO and NNCF, which a process of their own would send, at home.

    They take a stub for them where their package is not there.
    """
    if _REPORTS in sys.modules:
        yield
        return
    sys.modules[_REPORTS] = None  # type: ignore[assignment]
    try:
        yield
    finally:
        del sys.modules[_REPORTS]


def _onnx(path: Path, wish: Wish) -> Session:
    """Return a session of ONNX Runtime: CPU, CUDA or TensorRT provider."""
    ort = engine("onnxruntime", "onnx")
    if not hasattr(ort, "InferenceSession"):
        raise DeviceError("onnxruntime is installed by halves; " + ort_gpu.clash())
    info = onnx_file.describe(path)
    if len(info.inputs) != 1:
        raise WeightsError(f"{path}: {len(info.inputs)} inputs, wanted one; export it anew")
    parallel = wish.device == "cpu" and wish.batch > 1
    options = ort_options(ort, wish)
    fixed = all(
        t.type == 1 and t.shape and (wish.size or None not in t.shape[1:]) for t in info.outputs
    )
    providers = ort_gpu.providers(
        ort, wish.device, wish.precision, fixed and wish.batch == 1, cache_folder() / "tensorrt"
    )
    try:
        # no second try, which would print on stdout
        session = ort.InferenceSession(
            str(path), options, providers=providers, enable_fallback=False
        )
    except Exception as e:  # the engine's error classes are private
        raise _refused(path, "ONNX Runtime", e) from e
    got, wanted = session.get_providers()[0], ort_gpu.provider_name(providers[0])
    if got != wanted:
        raise DeviceError(
            f"{wish.device} was asked for but the session runs on {got}; {ort_gpu.clash()}"
        )
    names = [o.name for o in session.get_outputs()]
    key = info.inputs[0].name

    def plain(x: Array) -> dict[str, Array]:
        return dict(zip(names, session.run(names, {key: x})))

    run: Callable[[Array], dict[str, Array]] = plain
    if wish.device != "cpu" and fixed:
        run = ort_gpu.bound(ort, session, key, names, "cuda", ort_gpu.device_number(wish.device))
    return Session(
        _guarded(_fixed_batch(run, info.inputs[0]), path, "ONNX Runtime"),
        (_sized(info.inputs[0], wish),), tuple(names), wish.device,
        wish.precision, f"ONNX Runtime {ort.__version__} ({got.removesuffix('ExecutionProvider')})",
        parallel,
    )  # fmt: skip


def ort_options(ort: Any, wish: Wish) -> Any:
    """Return ONNX Runtime's options for a session."""
    options = ort.SessionOptions()
    parallel = wish.device == "cpu" and wish.batch > 1
    options.intra_op_num_threads = max(1, wish.threads // wish.batch) if parallel else wish.threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 3
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    if wish.size is not None:
        # known sizes are as fast as fixed ones, and let a GPU replay a graph
        for name, side in zip(("width", "height"), wish.size):
            options.add_free_dimension_override_by_name(name, side)
    return options


def _sized(tensor: Tensor, wish: Wish) -> Tensor:
    """Return an input of pictures (B, height, width, 3) with the sides wished for."""
    if wish.size is None or len(tensor.shape) != 4:
        return tensor
    return replace(tensor, shape=(tensor.shape[0], *wish.size[::-1], tensor.shape[3]))


def _guarded(
    run: Callable[[Array], dict[str, Array]], path: Path, engine_name: str
) -> Callable[[Array], dict[str, Array]]:
    """Return `run` with the engine's own errors told as ours: some files fail only when run."""

    def guarded(x: Array) -> dict[str, Array]:
        try:
            return run(x)
        except ManyposeError:
            raise
        except Exception as e:  # the engine's error classes are private
            raise _refused(path, engine_name, e) from e

    return guarded


def _fixed_batch(
    run: Callable[[Array], dict[str, Array]], tensor: Tensor
) -> Callable[[Array], dict[str, Array]]:
    """Return `run` for any number of pictures, of a network that takes a fixed number."""
    size = tensor.shape[0] if tensor.shape else None
    if size is None:
        return run

    def chunks(x: Array) -> dict[str, Array]:
        if len(x) == size:
            return run(x)
        parts = []
        for i in range(0, len(x), size):
            part = x[i : i + size]
            fill = np.repeat(part[-1:], size - len(part), 0)
            got = run(np.concatenate([part, fill]) if len(fill) else part)
            parts.append({k: v[: len(part)] for k, v in got.items()})
        return {k: np.concatenate([p[k] for p in parts]) for k in parts[0]}

    return chunks


def _openvino(path: Path, wish: Wish) -> Session:
    """Return a session of OpenVINO: CPU (or its GPU), an ONNX file or an IR.

    Pictures in work at once have one core each, which takes more pictures a second than all cores
    on one picture: those of one call, or those of calls by several threads.
    """
    ov = engine("openvino", "openvino")
    if path.suffix.lower() == ".onnx":
        onnx_file.describe(path)
    device = {"cpu": "CPU", "gpu": "GPU"}.get(wish.device)
    core = openvino_core()
    if device is None or device not in core.available_devices:
        raise DeviceError(
            f"OpenVINO has no device {wish.device}, only {', '.join(core.available_devices)}; "
            "use --device cpu, or --backend onnx for CUDA"
        )
    # Without this line f32 files run in bfloat16 on CPUs that can.
    settings: dict[str, Any] = {
        "INFERENCE_PRECISION_HINT": "bf16" if wish.precision == "bf16" else "f32",
        "PERFORMANCE_HINT": "LATENCY" if wish.batch == 1 else "THROUGHPUT",
    }
    streams = 1 if wish.batch == 1 else max(1, min(wish.batch, wish.threads or cores()))
    if device == "CPU":
        settings |= {"INFERENCE_NUM_THREADS": wish.threads or cores(), "NUM_STREAMS": streams}
        # Threads tied to a core wait for it while others idle.
        settings["ENABLE_CPU_PINNING"] = False
    cache = cache_folder() / "openvino"
    if writable(cache):
        settings["CACHE_DIR"] = str(cache)
    try:
        model = core.read_model(str(path))
        if wish.size is not None:
            model.reshape([1, wish.size[1], wish.size[0], 3])
        tensors = tuple(_ov_tensor(i) for i in model.inputs)
        if wish.outputs:
            ends = [r for r in model.get_results() if r.input_value(0).names & {*wish.outputs}]
            model = ov.Model(ends or model.get_results(), model.get_parameters())
        shape = tensors[0].shape if len(tensors) == 1 else ()
        free = bool(shape) and (shape[0] is None or wish.together > 1)

        def compiled(count: int) -> Any:
            if not free:
                return core.compile_model(model, device, settings)
            sized = model.clone()
            sized.reshape([count, *(-1 if s is None else s for s in shape[1:])])
            return core.compile_model(sized, device, settings)

        least = (shape[0] if shape and not free else None) or 1
        requests = Requests(compiled, least, wish.together if free else least, streams)
    except (RuntimeError, UnicodeDecodeError) as e:  # its own words about a file need not be text
        raise _refused(path, "OpenVINO", e) from e
    if len(tensors) != 1:
        raise WeightsError(f"{path}: {len(tensors)} inputs, wanted one; export it anew")
    return Session(
        _guarded(_fixed_batch(requests, tensors[0]) if least > 1 else requests, path, "OpenVINO"),
        tensors, requests.outputs, wish.device,
        wish.precision, f"OpenVINO {ov.__version__.split('-')[0]}", streams > 1,
    )  # fmt: skip


def _ov_tensor(port: Any) -> Tensor:
    kind = {"f32": 1, "u8": 2, "f16": 10}.get(port.get_element_type().get_type_name(), 0)
    shape = tuple(d.get_length() if d.is_static else None for d in port.get_partial_shape())
    return Tensor(name(port, 0), kind, shape)


def _torch(path: Path, wish: Wish) -> Session:
    """Return a session of PyTorch, which runs the same ONNX file operation by operation."""
    engine("torch", "torch")
    engine("onnx", "torch")
    from manypose.models import torch_runtime

    info = onnx_file.describe(path)
    run, title = torch_runtime.load(path, wish.device, wish.threads, wish.precision)
    return Session(
        _fixed_batch(run, info.inputs[0]), tuple(_sized(t, wish) for t in info.inputs),
        tuple(t.name for t in info.outputs),
        wish.device, wish.precision, title,
    )  # fmt: skip


RUNTIMES: dict[str, Callable[[Path, Wish], Session]] = {
    "onnx": _onnx,
    "openvino": _openvino,
    "torch": _torch,
}


def _refused(path: Path, engine: str, error: Exception) -> ManyposeError:
    line = " ".join(str(error).split())[:300]
    if "CUDA" in line or "cudnn" in line.lower():
        return DeviceError(f"the GPU cannot be used: {line}. Use --device cpu, or mend the driver")
    return WeightsError(f"{path}: {engine} refuses it ({line}); export or fetch it again")


def open_session(path: Path, runtime: str, wish: Wish) -> Session:
    """Return a session for a file; "auto" takes the first runtime installed.

    Raises:
        DeviceError: runtime or device cannot be had.
        WeightsError: the file is damaged or of a kind the runtime cannot run.
        UsageError: no runtime has this name.
    """
    if path.suffix.lower() == ".xml":
        if runtime not in ("auto", "openvino"):
            raise UsageError(f"{path.name} is an OpenVINO file: use --backend openvino")
        runtime = "openvino"
    if runtime == "auto":
        runtime = installed()[0]
    if runtime not in RUNTIMES:
        raise UsageError(f"no runtime {runtime!r}; there are auto, {', '.join(RUNTIMES)}")
    if wish.device == "auto":
        wish = replace(wish, device="cpu")
    if wish.threads <= 0:
        wish = replace(wish, threads=cores())
    return RUNTIMES[runtime](path, wish)


def installed() -> list[str]:
    """Return the runtimes that are installed, the fastest to start first.

    Raises:
        DeviceError: there is none.
    """
    found = [k for k, ms in _MODULES.items() if all(importlib.util.find_spec(m) for m in ms)]
    if not found:
        raise DeviceError(
            "no inference engine is installed: pip install 'manypose[cpu]' (any machine), "
            "'manypose[openvino]' (faster on Intel and AMD) or 'manypose[gpu]' (NVIDIA)"
        )
    return found
