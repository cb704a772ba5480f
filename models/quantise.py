"""Int8 files: our networks calibrated on photographs, with a report of what rounding costs.

`quantise` writes QDQ form for ONNX Runtime, which OpenVINO reads too; `quantise_openvino` has NNCF
make OpenVINO's own form. Activations are uint8, weights int8 per
channel in 7 bits: CPUs without VNNI add two products in 16 bits, which overflow with 8.
"""

from __future__ import annotations

import contextlib
import gzip
import json
import logging
import sys
import tempfile
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import cv2
import numpy as np
from numpy.typing import NDArray

from manypose.errors import WeightsError
from manypose.models import onnx_file, weights
from manypose.models.preprocess import letterbox
from manypose.pose.records import UInt8

OUTPUTS = ("heatmaps", "pafs", "encodings")
# Outputs of each kind of network that can be rounded.
OUTPUTS_OF = {"stage1": OUTPUTS, "portrait": ("heatmaps", "bones")}
SQNR_WANTED_DB = 16.0
# Layers whose noise a softmax makes larger, by a part of their names: they are kept in float. The
# second form keeps the last layers of heads anyway, and rounds those before them worse.
_FLOAT_OPENVINO: dict[str, tuple[str, ...]] = {"portrait": ("/maps/", "/seen/")}
_FLOAT_ONNX: dict[str, tuple[str, ...]] = {"portrait": ("/smooth4/",)}
# What may follow the last layer of a head.
_AFTER = ("Slice", "Split", "Clip", "Mul", "Reshape", "Softmax")
# Pictures that noise is measured on: of eight, two without people decided the figure.
TEST_PICTURES = 32
# Share of each picture in the running range of an activation: the widest range of all pictures is
# that of one rare outlier (Jacob et al. 2018, section 3.1).
_NEW_RANGE = 0.02


def _session(path: Path) -> Any:
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    return ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


def answer(
    path: Path, pictures: UInt8, outputs: Sequence[str] = OUTPUTS
) -> list[NDArray[np.float32]]:
    """Return the named outputs of a file for pictures, by the engine it is for."""
    if path.suffix == ".xml":
        from manypose.models.sessions import Wish, open_session

        maps = open_session(path, "openvino", Wish("cpu", 1, "int8")).run(pictures)
        return [maps[name] for name in outputs]
    return cast("list[NDArray[np.float32]]", _session(path).run([*outputs], {"image": pictures}))


def sqnr_db(wanted: NDArray[Any], got: NDArray[Any]) -> float:
    """Return the signal to quantisation noise ratio in dB (inf for equal arrays)."""
    noise = float(np.square(wanted - got, dtype=np.float64).sum())
    signal = float(np.square(wanted, dtype=np.float64).sum())
    return float("inf") if noise == 0 else 10 * float(np.log10(max(signal, 1e-30) / noise))


def quantise(
    path: Path,
    out: Path,
    images: Iterable[UInt8] | Path,
    record: bool = False,
    count: int = 200,
    search: bool = True,
    keep_float: Sequence[str] = (),
    seven_bits: bool = True,
) -> dict[str, Any]:
    """Write the int8 form of an exported file; return the report.

    Calibrated on up to `count` pictures (BGR arrays of any size, or a folder of photographs or of
    packed ones). The last layers of the heads stay in float; with `search`, groups of layers whose
    rounding costs most stay too, until every output's SQNR reaches `SQNR_WANTED_DB`.
    Report: sqnr_db by output (on pictures not calibrated on, where there are enough), float_layers,
    pictures, bytes.

    Raises:
        WeightsError: there is no picture, or the file is none of ours.
    """
    import onnx
    from onnxruntime.quantization import (
        CalibrationMethod,
        QuantFormat,
        QuantType,
        quantize_static,
    )
    from onnxruntime.quantization.shape_inference import quant_pre_process

    meta = _described(path)
    outputs = OUTPUTS_OF[meta["manypose.kind"]]
    test, calibration = _prepared(meta, images, count)
    wanted = _each(path, test, outputs)
    model = onnx.load(str(path))
    part = out.with_name(out.name + ".part")
    out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        ready = Path(folder) / "ready.onnx"
        quant_pre_process(str(path), str(ready), skip_symbolic_shape=True)
        whole = onnx.load(str(ready))
        groups = _layer_groups(whole)
        last = groups.pop("last")
        parts = _FLOAT_ONNX.get(meta["manypose.kind"], ())
        last += [n.name for n in whole.graph.node if any(part in n.name for part in parts)]

        def attempt(floats: Sequence[str], pictures: Sequence[UInt8]) -> dict[str, float]:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                quantize_static(
                    str(ready),
                    str(part),
                    _Reader(pictures),
                    quant_format=QuantFormat.QDQ,
                    op_types_to_quantize=["Conv", "Concat", "Resize", "Relu", "MaxPool", "Add"],
                    per_channel=True,
                    reduce_range=seven_bits,
                    activation_type=QuantType.QUInt8,
                    weight_type=QuantType.QInt8,
                    nodes_to_exclude=[*floats],
                    calibrate_method=CalibrationMethod.MinMax,
                    extra_options={
                        "CalibMovingAverage": True,
                        "CalibMovingAverageConstant": _NEW_RANGE,
                    },
                )
            got = _each(part, test, outputs)
            return {n: sqnr_db(a, b) for n, a, b in zip(outputs, wanted, got)}

        try:
            floats = [*last, *keep_float]
            report = attempt(floats, calibration)
            if search and min(report.values()) < SQNR_WANTED_DB:
                # One group at a time: which one gains most when left in float?
                few = calibration[:24]
                gain = {g: min(attempt([*floats, *m], few).values()) for g, m in groups.items()}
                for group in sorted(gain, key=lambda g: -gain[g]):
                    floats += groups[group]
                    report = attempt(floats, calibration)
                    if min(report.values()) >= SQNR_WANTED_DB:
                        break
            quantised = onnx.load(str(part))
            del quantised.metadata_props[:]
            for p in model.metadata_props:
                quantised.metadata_props.add(key=p.key, value=p.value)
            quantised.metadata_props.add(key="manypose.precision", value="int8")
            quantised.metadata_props.add(key="manypose.sqnr_db", value=json.dumps(report))
            quantised.producer_name = "manypose"
            onnx.save(quantised, str(part))
            part.replace(out)
        finally:
            part.unlink(missing_ok=True)
    if record:
        _record(out, meta)
    return _told(report, floats, len(calibration), out)


def quantise_openvino(
    path: Path,
    out: Path,
    images: Iterable[UInt8] | Path,
    record: bool = False,
    count: int = 200,
) -> dict[str, Any]:
    """Write the int8 form of an exported file for OpenVINO, `out` (.xml) and its .bin, by NNCF.

    Arguments, report and errors as `quantise`; only layers before a softmax are kept in float.
    Weights get 7 bits (NNCF's overflow fix) and biases are corrected.

    Raises:
        DeviceError: NNCF or OpenVINO is not installed.
    """
    from manypose.models.sessions import engine, openvino_core

    ov, nncf = engine("openvino", "openvino"), engine("nncf", "nncf")
    meta = _described(path)
    outputs = OUTPUTS_OF[meta["manypose.kind"]]
    test, calibration = _prepared(meta, images, count)
    model = openvino_core().read_model(str(path))
    model.reshape([1, *test.shape[1:]])
    parts = _FLOAT_OPENVINO.get(meta["manypose.kind"], ())
    kinds = ("Convolution", "MatMul")
    layers = [o.get_friendly_name() for o in model.get_ops() if o.get_type_name() in kinds]
    floats = [name for name in layers if any(part in name for part in parts)]
    logging.getLogger("nncf").setLevel(logging.ERROR)
    with contextlib.redirect_stdout(sys.stderr), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        small = nncf.quantize(
            model,
            nncf.Dataset(calibration, lambda p: {"image": p[None]}),
            preset=nncf.QuantizationPreset.MIXED,
            subset_size=len(calibration),
            ignored_scope=nncf.IgnoredScope(names=floats),
            advanced_parameters=nncf.AdvancedQuantizationParameters(
                overflow_fix=nncf.OverflowFix.ENABLE
            ),
        )
    for key, value in (meta | {"manypose.precision": "int8"}).items():
        small.set_rt_info(value, key.split("."))
    out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=out.parent, prefix=f"{out.stem}.") as folder:
        made = Path(folder) / out.name
        ov.save_model(small, str(made), compress_to_fp16=False)
        got = answer(made, test, outputs)
        report = {n: sqnr_db(*ab) for n, *ab in zip(outputs, _each(path, test, outputs), got)}
        made.with_suffix(".bin").replace(out.with_suffix(".bin"))
        made.replace(out)
    if record:
        _record(out, meta)
    return _told(report, floats, len(calibration), out, out.with_suffix(".bin"))


def _each(path: Path, pictures: UInt8, outputs: Sequence[str]) -> list[NDArray[np.float32]]:
    """Return the outputs of a file that gets one picture at a time."""
    one_by_one = (answer(path, p[None], outputs) for p in pictures)
    return [np.concatenate(z) for z in zip(*one_by_one)]


def _told(
    sqnr: Mapping[str, float], floats: Sequence[str], pictures: int, *files: Path
) -> dict[str, Any]:
    return {
        "sqnr_db": {k: round(v, 2) for k, v in sqnr.items()},
        "float_layers": floats,
        "pictures": pictures,
        "bytes": sum(f.stat().st_size for f in files),
    }


def _described(path: Path) -> dict[str, str]:
    """Return the metadata of an export."""
    meta = onnx_file.describe(path).metadata
    if meta.get("manypose.kind") not in OUTPUTS_OF:
        raise WeightsError(f"{path}: not an export of ours; export the checkpoint first")
    return meta


def _prepared(
    meta: Mapping[str, str], images: Iterable[UInt8] | Path, count: int
) -> tuple[UInt8, list[UInt8]]:
    """Return letter-boxed pictures to test with (N, h, w, 3) and to calibrate on."""
    width, height = json.loads(meta["manypose.input"])
    found = load_pictures(images, count + TEST_PICTURES) if isinstance(images, Path) else images
    boxed = [letterbox(p, height, width)[0] for _, p in zip(range(count + TEST_PICTURES), found)]
    if not boxed:
        raise WeightsError("int8 needs pictures to calibrate on: give a folder of photographs")
    held = min(TEST_PICTURES, max(1, len(boxed) // 4))
    return np.stack(boxed[-held:]), boxed[:-held] or boxed


def _record(out: Path, meta: Mapping[str, str]) -> None:
    width, height = json.loads(meta["manypose.input"])
    weights.record(weights.Weights(
        meta["manypose.name"], out.resolve(), meta["manypose.kind"], "int8", "",
        meta["manypose.licence"], meta["manypose.source"], (width, height),
    ))  # fmt: skip


class _Reader:
    """Calibration pictures, one at a time, in the form that ONNX Runtime asks for."""

    def __init__(self, boxed: Sequence[UInt8]) -> None:
        self._left: Iterator[UInt8] = iter(boxed)

    def get_next(self) -> dict[str, UInt8] | None:
        picture = next(self._left, None)
        return None if picture is None else {"image": picture[None]}


def _layer_groups(model: Any) -> dict[str, list[str]]:
    """Return names of convolutions by part of the network; "last": those that end in an output."""
    convs = [n for n in model.graph.node if n.op_type == "Conv"]
    feeds: dict[str, list[Any]] = {}
    for node in model.graph.node:
        for i in node.input:
            feeds.setdefault(i, []).append(node)
    outputs = {o.name for o in model.graph.output}

    def ends(node: Any) -> bool:
        return any(
            o in outputs or any(n.op_type in _AFTER and ends(n) for n in feeds.get(o, []))
            for o in node.output
        )

    groups: dict[str, list[str]] = {"last": [n.name for n in convs if ends(n)]}
    for node in convs:
        if node.name not in groups["last"]:
            # "/net/backbone/features/features.3/conv1/Conv" -> "features.3"
            words = [w for w in node.name.split("/") if w and w not in ("net", "backbone")]
            words = [w for w in words if w != "features"] or [node.name]
            groups.setdefault(words[0], []).append(node.name)
    return groups


def load_pictures(folder: Path, count: int) -> Iterator[UInt8]:
    """Yield up to `count` pictures (BGR) of a folder: photographs, or shards of packed ones.

    A packed folder has `labels_*.json.gz` whose `images` give shard, offset and length.

    Raises:
        WeightsError: the folder holds no picture that can be read.
    """
    packs = sorted(folder.glob("labels_*.json.gz"))
    files = sorted(
        p for p in folder.rglob("*") if p.suffix.lower() in (".jpg", ".jpeg", ".png", ".webp")
    )
    rng = np.random.default_rng(0)
    jobs: list[tuple[Path, int, int]] = [(f, 0, -1) for f in files]
    for pack in packs:
        with gzip.open(pack, "rt", encoding="utf-8") as f:
            rows = json.load(f)["images"]
        jobs += [
            (weights.inside(folder, r["shard"]), int(r["offset"]), int(r["length"])) for r in rows
        ]
    sent = 0
    for i in rng.permutation(len(jobs)):
        if sent == count:
            return
        path, offset, length = jobs[i]
        with path.open("rb") as b:
            b.seek(offset)
            data = b.read(length)
        image = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR) if data else None
        if image is not None:
            sent += 1
            yield cast("UInt8", image)
    if not sent:
        raise WeightsError(f"{folder}: no pictures found; give a folder of photographs")
