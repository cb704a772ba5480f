"""The torch runtime: an ONNX file of ours as a torch function, for CUDA without further engines.

The file's operations are run one by one; no second weight file and no pickle is needed. On a GPU
convolutions run channels-last, and a CUDA graph of the whole network replaces the launches.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from manypose.errors import DeviceError, WeightsError

Array = NDArray[Any]
Values = dict[str, Tensor]
Step = Callable[[Values], None]


def load(
    path: Path, device: str, threads: int, precision: str
) -> tuple[Callable[[Array], dict[str, Array]], str]:
    """Return a function from the input array to outputs by name, and the engine's name.

    Raises:
        DeviceError: the device cannot be had.
        WeightsError: the file has an operation that Stage I has not.
    """
    import onnx
    from onnx import numpy_helper

    if device.startswith("cuda"):
        if not torch.cuda.is_available():
            raise DeviceError(
                f"{device} was asked for but torch {torch.__version__} finds no usable GPU; use "
                "--device cpu, or install torch for CUDA and the driver"
            )
        torch.backends.cudnn.benchmark = True
    elif device != "cpu":
        raise DeviceError(f"the torch runtime has no device {device}; use cpu or cuda")
    else:
        torch.set_num_threads(threads)
    place = torch.device(device)
    kind = {"fp16": torch.float16, "bf16": torch.bfloat16}.get(precision, torch.float32)
    try:
        model = onnx.load(str(path), load_external_data=False)
        onnx.checker.check_model(model)
    except Exception as e:
        raise WeightsError(f"{path}: torch runtime cannot read it ({e}); export it anew") from e
    graph = model.graph
    arrays = {t.name: numpy_helper.to_array(t) for t in graph.initializer}
    for node in graph.node:
        if node.op_type == "Constant" and node.attribute[0].name == "value":
            arrays[node.output[0]] = numpy_helper.to_array(node.attribute[0].t)
    fixed: Values = {}
    for name, array in arrays.items():
        value = torch.from_numpy(np.array(array)).to(place)
        value = value.to(kind) if value.is_floating_point() else value
        fixed[name] = (
            value.contiguous(memory_format=torch.channels_last) if value.ndim == 4 else value
        )
    steps: list[Step] = []
    for node in graph.node:
        if node.op_type == "Constant":
            continue
        if node.op_type not in _OPERATIONS:
            raise WeightsError(
                f"{path}: the torch runtime has no operation {node.op_type}; use --backend onnx or "
                "openvino, or the fp32 file"
            )
        attributes = {a.name: onnx.helper.get_attribute_value(a) for a in node.attribute}
        steps.append(_step(node, attributes, arrays, kind))
    key, names = graph.input[0].name, [o.name for o in graph.output]

    def forward(x: Tensor) -> dict[str, Tensor]:
        values = fixed | {key: x}
        for step in steps:
            step(values)
        return {n: values[n].float() for n in names}

    engine = f"torch {torch.__version__.split('+')[0]}"
    if place.type == "cuda":
        return _graphed(forward, place), f"{engine} ({torch.cuda.get_device_name(place)})"

    def run(x: Array) -> dict[str, Array]:
        with torch.inference_mode():
            return {n: v.numpy() for n, v in forward(torch.from_numpy(x)).items()}

    return run, engine


def _graphed(
    forward: Callable[[Tensor], dict[str, Tensor]], place: torch.device
) -> Callable[[Array], dict[str, Array]]:
    """Return a call that replays a CUDA graph, one for each input shape."""
    graphs: dict[tuple[int, ...], tuple[Any, Tensor, dict[str, Tensor]]] = {}

    def run(x: Array) -> dict[str, Array]:
        with torch.inference_mode():
            if x.shape not in graphs:
                source = torch.from_numpy(x).to(place)
                aside = torch.cuda.Stream(place)  # type: ignore[no-untyped-call]
                aside.wait_stream(torch.cuda.current_stream(place))
                with torch.cuda.stream(aside):  # warm-up: cuDNN chooses its kernels here
                    for _ in range(3):
                        forward(source)
                torch.cuda.current_stream(place).wait_stream(aside)
                graph = torch.cuda.CUDAGraph()
                with torch.cuda.graph(graph):
                    outputs = forward(source)
                graphs[x.shape] = graph, source, outputs
            graph, source, outputs = graphs[x.shape]
            source.copy_(torch.from_numpy(x))
            graph.replay()
            return {n: v.cpu().numpy() for n, v in outputs.items()}

    return run


def _step(
    node: Any, attributes: dict[str, Any], arrays: dict[str, Array], kind: torch.dtype
) -> Step:
    inputs, output = list(node.input), node.output[0]
    operation = _OPERATIONS[node.op_type]
    numbers = [arrays.get(n) for n in inputs]

    def step(values: Values) -> None:
        given = [values[n] if n else None for n in inputs]
        values[output] = operation(given, attributes, numbers, kind)

    return step


Given = list[Any]
Numbers = list[Any]


def _conv(x: Given, a: dict[str, Any], n: Numbers, kind: torch.dtype) -> Tensor:
    pads = a.get("pads", [0, 0, 0, 0])
    if pads[:2] != pads[2:]:
        x[0], pads = functional.pad(x[0], (pads[1], pads[3], pads[0], pads[2])), [0, 0]
    return functional.conv2d(
        x[0], x[1], x[2] if len(x) > 2 else None, a.get("strides", 1), tuple(pads[:2]),
        a.get("dilations", 1), a.get("group", 1),
    )  # fmt: skip


def _resize(x: Given, a: dict[str, Any], n: Numbers, kind: torch.dtype) -> Tensor:
    if a.get("mode") != b"linear" or a.get("coordinate_transformation_mode") != b"half_pixel":
        raise WeightsError("the torch runtime has bilinear, half-pixel Resize only")
    if len(x) < 4:
        how: dict[str, Any] = {"scale_factor": n[2][2:].tolist()}
    else:
        how = {"size": x[3][2:].tolist()}
    return functional.interpolate(x[0], mode="bilinear", align_corners=False, **how)


def _gemm(x: Given, a: dict[str, Any], n: Numbers, kind: torch.dtype) -> Tensor:
    weight = x[1] if a.get("transB") else x[1].T
    return functional.linear(x[0], weight, x[2] if len(x) > 2 else None)


def _unsqueeze(x: Given, a: dict[str, Any], n: Numbers, kind: torch.dtype) -> Tensor:
    y: Tensor = x[0]
    for axis in sorted(n[1].tolist()):
        y = y.unsqueeze(axis)
    return y


def _shape(x: Given, a: dict[str, Any], n: Numbers, kind: torch.dtype) -> Tensor:
    # on the CPU: reading it from the device would be a break in a CUDA graph
    return torch.tensor(x[0].shape[a.get("start", 0) : a.get("end")])


def _slice(x: Given, a: dict[str, Any], n: Numbers, kind: torch.dtype) -> Tensor:
    y: Tensor = x[0]
    for start, end, axis in zip(n[1].tolist(), n[2].tolist(), n[3].tolist()):
        y = y.narrow(axis, start, min(end, y.shape[axis]) - start)
    return y


def _clip(x: Given, a: dict[str, Any], n: Numbers, kind: torch.dtype) -> Tensor:
    low, high = (float(v) if v is not None else None for v in (*n[1:], None, None)[:2])
    return torch.clamp(x[0], low, high)


def _max_pool(x: Given, a: dict[str, Any], n: Numbers, kind: torch.dtype) -> Tensor:
    return functional.max_pool2d(
        x[0], a["kernel_shape"], a.get("strides", 1), tuple(a.get("pads", [0, 0])[:2]),
        ceil_mode=bool(a.get("ceil_mode", 0)),
    )  # fmt: skip


_OPERATIONS: dict[str, Callable[[Given, dict[str, Any], Numbers, torch.dtype], Tensor]] = {
    "Conv": _conv,
    "Resize": _resize,
    "Shape": _shape,
    "Slice": _slice,
    "Clip": _clip,
    "MaxPool": _max_pool,
    "Relu": lambda x, a, n, kind: torch.relu(x[0]),
    "Sigmoid": lambda x, a, n, kind: torch.sigmoid(x[0]),
    "PRelu": lambda x, a, n, kind: torch.where(x[0] < 0, x[0] * x[1], x[0]),
    "Add": lambda x, a, n, kind: x[0] + x[1],
    "Sub": lambda x, a, n, kind: x[0] - x[1],
    "Mul": lambda x, a, n, kind: x[0] * x[1],
    "Div": lambda x, a, n, kind: x[0] / x[1],
    "Concat": lambda x, a, n, kind: torch.cat(x, a["axis"]),
    "Transpose": lambda x, a, n, kind: x[0].permute(a["perm"]),
    "Cast": lambda x, a, n, kind: x[0].to(kind),  # only pictures and maps are cast
    "Flatten": lambda x, a, n, kind: x[0].flatten(a.get("axis", 1)),
    "Gemm": _gemm,
    "Unsqueeze": _unsqueeze,
    "ReduceMean": lambda x, a, n, kind: x[0].mean(a["axes"], bool(a.get("keepdims", 1))),
    "Softmax": lambda x, a, n, kind: x[0].softmax(a.get("axis", -1)),
    "Reshape": lambda x, a, n, kind: x[0].reshape(n[1].tolist()),
    "Identity": lambda x, a, n, kind: x[0],
}
