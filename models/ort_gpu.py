"""ONNX Runtime on an NVIDIA GPU: providers, their remedies, and calls bound to fixed buffers.

Two wheels own the name onnxruntime; the wrong one, or one without its CUDA libraries, runs on the
CPU without a word. So what is there is asked first, and what is missing is said with its remedy.
"""

from __future__ import annotations

import importlib.metadata
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from manypose.errors import DeviceError

Array = NDArray[Any]


def device_number(device: str) -> int:
    """Return the number in cuda:1 (0 without one).

    Raises:
        DeviceError: what follows the colon is no number.
    """
    name, _, number = device.partition(":")
    if name not in ("cuda", "tensorrt") or not (number or "0").isdigit():
        raise DeviceError(f"no device {device!r}; there are auto, cpu, cuda, cuda:1, tensorrt")
    return int(number or 0)


def provider_name(provider: str | tuple[str, Any]) -> str:
    """Return the name of a provider with or without its options."""
    return provider if isinstance(provider, str) else provider[0]


def providers(ort: Any, device: str, precision: str, graphs: bool, cache: Path) -> list[Any]:
    """Return the providers for a device, best first; graphs: replay a CUDA graph.

    Raises:
        DeviceError: this build of ONNX Runtime does not have them.
    """
    if device == "cpu":
        return ["CPUExecutionProvider"]
    number = device_number(device)
    # One fixed shape: the exhaustive search of kernels is paid once. Graphs need bound buffers.
    cuda = ("CUDAExecutionProvider", {
        "device_id": number, "cudnn_conv_algo_search": "EXHAUSTIVE",
        "cudnn_conv_use_max_workspace": "1", "use_tf32": "1",
        "enable_cuda_graph": "1" if graphs else "0",
    })  # fmt: skip
    wanted: list[Any] = [cuda]
    if device.startswith("tensorrt"):
        wanted = [("TensorrtExecutionProvider", {
            "device_id": number, "trt_engine_cache_enable": True,
            "trt_engine_cache_path": str(cache), "trt_timing_cache_enable": True,
            "trt_fp16_enable": precision == "fp16",
        }), ("CUDAExecutionProvider", {"device_id": number})]  # fmt: skip
    if hasattr(ort, "preload_dlls"):
        ort.preload_dlls()
    there = ort.get_available_providers()
    if provider_name(wanted[0]) not in there:
        raise DeviceError(
            f"{device} was asked for but this onnxruntime has only {', '.join(there)}; " + clash()
        )
    return wanted


def clash() -> str:
    """Return the remedy for an onnxruntime without the provider asked for."""
    both = []
    for name in ("onnxruntime", "onnxruntime-gpu"):
        try:
            both.append(f"{name} {importlib.metadata.version(name)}")
        except importlib.metadata.PackageNotFoundError:
            continue
    if len(both) == 2:
        return (
            f"packages {both[0]} and {both[1]} are both installed. Run: pip uninstall onnxruntime "
            "onnxruntime-gpu; pip install onnxruntime-gpu"
        )
    if both and "gpu" in both[0]:
        return "its CUDA and cuDNN libraries are missing: pip install 'onnxruntime-gpu[cuda,cudnn]'"
    return "pip uninstall onnxruntime; pip install onnxruntime-gpu, or use --device cpu"


def bound(
    ort: Any, session: Any, key: str, names: list[str], device: str, number: int
) -> Callable[[Array], dict[str, Array]]:
    """Return a call whose input and outputs have fixed places on the device (for CUDA graphs).

    Each input shape has its own buffers and its own graph; the outputs' shapes must be fixed but
    for the batch.
    """
    places: dict[tuple[int, ...], tuple[Any, Any, list[Any], Any]] = {}

    def run(x: Array) -> dict[str, Array]:
        x = np.ascontiguousarray(x)
        if x.shape not in places:
            plain = session.io_binding()
            source = ort.OrtValue.ortvalue_from_numpy(x, device, number)
            outs = []
            plain.bind_ortvalue_input(key, source)
            for o in session.get_outputs():
                shape = [x.shape[0] if i == 0 else d for i, d in enumerate(o.shape)]
                value = ort.OrtValue.ortvalue_from_shape_and_type(shape, np.float32, device, number)
                plain.bind_ortvalue_output(o.name, value)
                outs.append(value)
            options = ort.RunOptions()
            options.add_run_config_entry("gpu_graph_id", str(len(places) + 1))
            places[x.shape] = (plain, source, outs, options)
        binding, source, outs, options = places[x.shape]
        source.update_inplace(x)
        session.run_with_iobinding(binding, options)
        return {n: o.numpy() for n, o in zip(names, outs)}

    return run
