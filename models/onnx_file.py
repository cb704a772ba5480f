"""What an ONNX file says of itself, read without any engine: inputs, outputs, metadata.

A file is looked at before an engine gets it, so that a damaged file, or one of another network, is
refused with one clear line. Only the few protobuf fields needed are walked (onnx.proto3: ModelProto
7 graph, 14 metadata_props; GraphProto 5 initializer, 11 input, 12 output), every length is checked.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from manypose.errors import WeightsError

_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5
_FIELDS_MAX = 1_000_000
_EXTERNAL = 14  # TensorProto.data_location


class _DamagedError(Exception):
    """The bytes are no protobuf message of the kind expected."""


@dataclass(frozen=True, slots=True)
class Tensor:
    """An input or output: name, ONNX element type (1 float32, 2 uint8), shape (None: free)."""

    name: str
    type: int
    shape: tuple[int | None, ...]


@dataclass(frozen=True, slots=True)
class OnnxInfo:
    """Inputs and outputs in the order of the file, and its metadata."""

    inputs: tuple[Tensor, ...]
    outputs: tuple[Tensor, ...]
    metadata: dict[str, str]


def describe(path: Path) -> OnnxInfo:
    """Return what the file says of itself.

    Raises:
        WeightsError: it cannot be read, is no ONNX file, or keeps its weights in other files.
    """
    try:
        data = path.read_bytes()
    except OSError as e:
        raise WeightsError(f"{path}: cannot be read ({e.strerror}); give an .onnx file") from e
    try:
        return _model(memoryview(data))
    except (_DamagedError, UnicodeDecodeError) as e:
        raise WeightsError(
            f"{path}: damaged, or not an ONNX file ({e}); fetch it again or export it anew"
        ) from e


def _model(data: memoryview) -> OnnxInfo:
    graph: memoryview | None = None
    metadata: dict[str, str] = {}
    for number, value in _fields(data):
        if number == 7:
            graph = _message(value)
        elif number == 14:
            pair = {n: _text(v) for n, v in _fields(_message(value))}
            metadata[pair.get(1, "")] = pair.get(2, "")
    if graph is None:
        raise _DamagedError("it holds no graph")
    inputs: list[Tensor] = []
    outputs: list[Tensor] = []
    initial: set[str] = set()
    for number, value in _fields(graph):
        if number == 11:
            inputs.append(_value_info(_message(value)))
        elif number == 12:
            outputs.append(_value_info(_message(value)))
        elif number == 5:
            for n, v in _fields(_message(value)):
                if n == 8:
                    initial.add(_text(v))
                elif n == _EXTERNAL and v != 0:
                    raise _DamagedError("its weights lie in other files, which is not allowed")
    if not outputs:
        raise _DamagedError("its graph has no outputs")
    return OnnxInfo(tuple(t for t in inputs if t.name not in initial), tuple(outputs), metadata)


def _value_info(data: memoryview) -> Tensor:
    name, kind, shape = "", 0, []
    for number, value in _fields(data):
        if number == 1:
            name = _text(value)
        elif number == 2:
            for n, tensor in _fields(_message(value)):
                if n != 1:
                    continue
                for m, part in _fields(_message(tensor)):
                    if m == 1 and isinstance(part, int):
                        kind = part
                    elif m == 2:
                        shape = [_dim(_message(d)) for k, d in _fields(_message(part)) if k == 1]
    return Tensor(name, kind, tuple(shape))


def _dim(data: memoryview) -> int | None:
    for number, value in _fields(data):
        if number == 1 and isinstance(value, int) and 0 < value < 2**31:
            return value
    return None


def _message(value: int | memoryview) -> memoryview:
    if isinstance(value, int):
        raise _DamagedError("a number where a message belongs")
    return value


def _text(value: int | memoryview) -> str:
    return bytes(_message(value)).decode("utf-8")


def _fields(data: memoryview) -> Iterator[tuple[int, int | memoryview]]:
    """Yield (field number, value) of one message: int for numbers, the bytes otherwise."""
    at, end = 0, len(data)
    for _ in range(_FIELDS_MAX):
        if at == end:
            return
        key, at = _varint(data, at)
        number, wire = key >> 3, key & 7
        if number == 0:
            raise _DamagedError(f"bad field at byte {at}")
        if wire == _VARINT:
            value, at = _varint(data, at)
            yield number, value
            continue
        if wire == _BYTES:
            length, at = _varint(data, at)
        elif wire in (_FIXED64, _FIXED32):
            length = 8 if wire == _FIXED64 else 4
        else:
            raise _DamagedError(f"bad wire type {wire} at byte {at}")
        if length > end - at:
            raise _DamagedError("it ends too early")
        yield number, data[at : at + length]
        at += length
    raise _DamagedError("too many fields")


def _varint(data: memoryview, at: int) -> tuple[int, int]:
    value = 0
    for shift in range(0, 70, 7):
        if at >= len(data):
            raise _DamagedError("it ends too early")
        byte = data[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, at
    raise _DamagedError("a number is too long")
