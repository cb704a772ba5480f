from __future__ import annotations

import contextlib
import importlib.util
import logging
import os
import random
import shutil
import threading
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest

from manypose.calib.camera import Camera
from manypose.errors import DeviceError, ManyposeError, UsageError, WeightsError
from manypose.models import backends, machine, ort_gpu, sessions, weights
from manypose.models.front_end import load_front_end
from manypose.models.quantise import quantise_openvino, sqnr_db
from manypose.models.sessions import Wish
from manypose.pose.records import Box, Frame, NetworkOutput

ort = pytest.importorskip("onnxruntime")

Files = dict[str, Path]


def _frames(count: int, height: int = 90, width: int = 160) -> list[Frame]:
    rng = np.random.default_rng(5)
    camera = Camera.from_fov(width, height)
    coarse = [rng.integers(0, 255, (9, 16, 3), np.uint8) for _ in range(count)]
    large = [c.repeat(height // 9, 0).repeat(width // 16, 1) for c in coarse]
    return [Frame(image, i / 30, i, camera) for i, image in enumerate(large)]


def _arrays(output: NetworkOutput) -> list[np.ndarray]:
    assert output.encodings is not None
    return [output.heatmaps, output.pafs, output.encodings]


def _has(runtime: str) -> bool:
    return runtime in sessions.installed()


@pytest.mark.parametrize("runtime", ["onnx", "openvino", "torch"])
@pytest.mark.parametrize("batch", [1, 3])
def test_every_runtime_gives_the_same_maps_in_float(
    small_files: Files, runtime: str, batch: int
) -> None:
    if not _has(runtime):
        pytest.skip(f"{runtime} is not installed")
    frames = _frames(3)
    wanted = backends.load_network("tiny", "onnx", "cpu", 1, "fp32")(frames)
    got = backends.load_network("tiny", runtime, "cpu", 1, "fp32", batch)(frames)
    for a, b in zip(wanted, got):
        np.testing.assert_array_equal(a.to_image, b.to_image)
        for x, y in zip(_arrays(a), _arrays(b)):
            assert y.dtype == np.float32
            assert sqnr_db(x, y) > 80


@pytest.mark.parametrize("runtime", ["onnx", "openvino"])
def test_int8_is_close_to_float_in_every_runtime(small_files: Files, runtime: str) -> None:
    if not _has(runtime):
        pytest.skip(f"{runtime} is not installed")
    frames = _frames(2)
    wanted = backends.load_network("tiny", "onnx", "cpu", 1, "fp32")(frames)
    network = backends.load_network("tiny", runtime, "cpu", 1, "int8")
    assert network.info.precision == "int8"
    for a, b in zip(wanted, network(frames)):
        for x, y in zip(_arrays(a), _arrays(b)):
            assert sqnr_db(x, y) > 20


@pytest.mark.parametrize("runtime", ["onnx", "openvino", "torch"])
def test_without_encodings_the_other_maps_are_the_same(small_files: Files, runtime: str) -> None:
    if not _has(runtime):
        pytest.skip(f"{runtime} is not installed")
    frames = _frames(1)
    whole = backends.load_network("tiny", runtime, "cpu", 1, "fp32")(frames)[0]
    less = backends.load_network("tiny", runtime, "cpu", 1, "fp32", encodings=False)(frames)[0]
    np.testing.assert_array_equal(whole.heatmaps, less.heatmaps)
    np.testing.assert_array_equal(whole.pafs, less.pafs)
    assert runtime != "openvino" or less.encodings is None


@pytest.mark.slow
def test_nncf_makes_openvino_s_own_form_and_auto_tries_it(
    small_files: Files, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("nncf")
    shutil.copy(small_files["fp32"], tmp_path)
    rng = np.random.default_rng(0)
    pictures = [
        rng.integers(0, 255, (4, 6, 3), np.uint8).repeat(16, 0).repeat(16, 1) for _ in range(8)
    ]
    report = quantise_openvino(
        tmp_path / "tiny.onnx", tmp_path / "tiny_int8.xml", pictures, record=True
    )
    assert min(report["sqnr_db"].values()) > 15
    assert report["bytes"] == sum(f.stat().st_size for f in tmp_path.glob("tiny_int8.*"))
    assert not [p for p in tmp_path.iterdir() if p.is_dir()]
    monkeypatch.setenv("MANYPOSE_MODELS", str(tmp_path))
    frames = _frames(2)
    weights.record(weights.Weights("tiny", (tmp_path / "tiny.onnx").resolve(), input_size=(96, 64)))
    wanted = backends.load_network("tiny", "onnx", "cpu", 1, "fp32")
    network = backends.load_network("tiny", "openvino", "cpu", 1, "int8")
    assert network.info.file.endswith("tiny_int8.xml")
    assert network.info.input_size == (96, 64)
    for a, b in zip(wanted(frames), network(frames)):
        for x, y in zip(_arrays(a), _arrays(b)):
            assert sqnr_db(x, y) > 15
    smaller = backends.load_network("tiny", "openvino", "cpu", 1, "int8", size=(80, 48))
    assert smaller.info.file.endswith("tiny_int8.xml")
    assert smaller(frames)[0].heatmaps.shape[1:] == (6, 10)
    (tmp_path / "tiny_int8.bin").write_bytes(b"damaged")
    with pytest.raises(WeightsError, match="damaged or changed"):
        backends.load_network("tiny", "openvino", "cpu", 1, "int8")


@pytest.mark.slow
def test_auto_measures_once_and_remembers(
    small_files: Files, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    first = backends.load_network("tiny", threads=1).info
    second = backends.load_network("tiny", threads=1).info
    assert first.chosen.startswith("timed: ")
    assert second.chosen == first.chosen.replace("timed", "remembered")
    assert (first.runtime, first.precision) == (second.runtime, second.precision)
    assert first.device == "cpu"
    assert first.sha256[:12] in first.line()
    (tmp_path / "manypose" / "choice.json").write_text("{damaged")
    assert backends.load_network("tiny", threads=1).info.chosen.startswith("timed: ")


def test_provider_is_what_was_asked(small_files: Files) -> None:
    if "CUDAExecutionProvider" in ort.get_available_providers():
        pytest.skip("this onnxruntime has CUDA")
    for device in ("cuda", "cuda:1", "tensorrt"):
        with pytest.raises(DeviceError, match=r"pip (un)?install"):
            backends.load_network("tiny", "onnx", device)


def test_a_session_that_fell_back_silently_is_found_out(
    small_files: Files, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The GPU wheel lists CUDA on a machine without it and then runs on the CPU (T2b).
    monkeypatch.setattr(
        ort, "get_available_providers", lambda: ["CUDAExecutionProvider", "CPUExecutionProvider"]
    )
    monkeypatch.setattr(ort, "preload_dlls", lambda: None, raising=False)
    with pytest.warns(UserWarning, match="CUDAExecutionProvider"), pytest.raises(DeviceError):
        sessions.open_session(small_files["fp32"], "onnx", Wish("cuda"))


def test_the_bound_path_of_the_gpu_gives_the_same_maps(small_files: Files) -> None:
    options = sessions.ort_options(ort, sessions.Wish("cpu", 1, size=(80, 48)))
    session = ort.InferenceSession(
        str(small_files["fp32"]), options, providers=["CPUExecutionProvider"]
    )
    names = [o.name for o in session.get_outputs()]
    bound = ort_gpu.bound(ort, session, "image", names, "cpu", 0)
    rng = np.random.default_rng(0)
    for batch in (1, 2, 1):
        x = rng.integers(0, 255, (batch, 48, 80, 3), np.uint8)
        wanted = dict(zip(names, session.run(names, {"image": x})))
        got = bound(x)
        for name in names:
            np.testing.assert_array_equal(got[name], wanted[name])


def test_devices_and_runtimes_that_are_not_there(small_files: Files) -> None:
    with pytest.raises(UsageError, match="auto, onnx, openvino, torch"):
        backends.load_network("tiny", "tflite")
    with pytest.raises(UsageError, match="int8"):
        backends.load_network(str(small_files["fp32"]), precision="int8")
    if _has("openvino"):
        with pytest.raises(DeviceError, match="OpenVINO"):
            backends.load_network("tiny", "openvino", "npu")
    if _has("torch"):
        with pytest.raises(DeviceError, match="torch"):
            backends.load_network("tiny", "torch", "cuda:7", precision="fp32")


@pytest.mark.skipif(not hasattr(os, "sched_getaffinity"), reason="the system does not tell")
def test_openvino_ties_no_thread_to_a_core(small_files: Files) -> None:
    pytest.importorskip("openvino")
    allowed = os.sched_getaffinity(0)
    if len(allowed) < 2:
        pytest.skip("there is one core")

    def tied() -> set[str]:
        found = set()
        for task in Path("/proc/self/task").iterdir():
            with contextlib.suppress(ProcessLookupError):
                if os.sched_getaffinity(int(task.name)) != allowed:
                    found.add(task.name)
        return found

    before, seen = tied(), set()  # those of other engines' own sessions
    network = backends.load_network("tiny", "openvino", "cpu", 1, "fp32")
    busy = threading.Thread(target=network, args=(_frames(60),))
    busy.start()
    while busy.is_alive():
        seen |= tied()
    assert seen <= before


def test_without_an_engine_the_pip_line_is_said(
    small_files: Files, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(DeviceError, match=r"pip install 'manypose\[cpu\]'"):
        backends.load_network("tiny")


def test_a_changed_file_is_refused(small_files: Files, tmp_path: Path) -> None:
    row = weights.manifest(small_files["folder"])[0]
    data = bytearray(row.path.read_bytes())
    data[len(data) // 2] ^= 1
    (tmp_path / "x.onnx").write_bytes(data)
    with pytest.raises(WeightsError, match="damaged or changed"):
        weights.verify(replace(row, path=tmp_path / "x.onnx"))


def test_missing_and_foreign_files_are_said_in_one_line(tmp_path: Path) -> None:
    onnx = pytest.importorskip("onnx")
    with pytest.raises(WeightsError, match="no network named 'nobody'"):
        backends.load_network("nobody")
    with pytest.raises(WeightsError, match="no such file"):
        backends.load_network(str(tmp_path / "none.onnx"))
    (tmp_path / "text.onnx").write_text("this is a letter to a friend")
    with pytest.raises(WeightsError, match="not an ONNX file"):
        backends.load_network(str(tmp_path / "text.onnx"))
    x, y = (
        onnx.helper.make_tensor_value_info(n, onnx.TensorProto.FLOAT, [1, 3, 8, 8]) for n in "xy"
    )
    graph = onnx.helper.make_graph([onnx.helper.make_node("Relu", ["x"], ["y"])], "g", [x], [y])
    onnx.save(onnx.helper.make_model(graph), str(tmp_path / "relu.onnx"))
    with pytest.raises(WeightsError, match="not a Stage I network"):
        backends.load_network(str(tmp_path / "relu.onnx"))


@pytest.mark.slow
def test_damaged_files_never_crash(small_files: Files, tmp_path: Path) -> None:
    data = small_files["int8"].read_bytes()
    rng = random.Random(3)
    path = tmp_path / "mutant.onnx"
    for i in range(40):
        mutant = bytearray(data)
        if i % 3 == 0:
            del mutant[rng.randrange(len(mutant)) :]
        for _ in range(rng.choice((1, 3, 20))):
            if mutant:
                mutant[rng.randrange(len(mutant)) if i % 2 else -rng.randrange(1, 3000)] = (
                    rng.randrange(256)
                )
        path.write_bytes(mutant)
        try:
            backends.load_network(str(path), "onnx", "cpu", 1)(_frames(1))
        except ManyposeError as e:
            assert "\n" not in str(e)  # noqa: PT017  either outcome is right, a crash is not


def test_nan_is_cleaned_and_logged(small_files: Files, caplog: pytest.LogCaptureFixture) -> None:
    network = backends.load_network("tiny", "onnx", "cpu", 1)
    healthy = network._session

    def ill(x: np.ndarray) -> dict[str, np.ndarray]:
        maps = healthy.run(x)
        maps["heatmaps"][0, 0, 0, 0] = np.nan
        maps["pafs"][0, 1, 2, 3] = np.inf
        return maps

    network._session = replace(healthy, run=ill)
    with caplog.at_level(logging.WARNING):
        for _ in range(3):
            (output,) = network(_frames(1))
    assert all(np.isfinite(a).all() for a in _arrays(output))
    assert sum("NaN or infinity" in r.message for r in caplog.records) == 1


def test_the_front_end_says_its_times_and_what_it_runs_on(small_files: Files) -> None:
    front_end = load_front_end("tiny", "onnx", "cpu", 1, batch=2)
    found = front_end(_frames(2))
    assert len(found) == 2
    assert set(found[0].stage_ms) == {"resize", "network", "group"}
    assert front_end.info.input_size == (96, 64)
    assert front_end.batch == 2
    assert front_end([]) == []


def test_names_cannot_leave_the_models_folder(tmp_path: Path) -> None:
    for name in ("../x.onnx", "/etc/passwd", "a/../../x", ""):
        with pytest.raises(WeightsError, match="leads out"):
            weights.inside(tmp_path, name)
    (tmp_path / "weights.toml").write_text('[[network]]\nname = "x"\nfile = "../../x.onnx"\n')
    with pytest.raises(WeightsError, match="leads out"):
        weights.manifest(tmp_path)


@pytest.mark.parametrize(
    "text",
    [
        "network = 3",
        "[[network]]\nname = 1",
        "[[network",
        '[[network]]\nname="a"\nfile="b"\nkind="z"',
    ],
)
def test_a_damaged_manifest_is_said_in_one_line(tmp_path: Path, text: str) -> None:
    (tmp_path / "weights.toml").write_text(text)
    with pytest.raises(WeightsError, match=r"weights\.toml"):
        weights.manifest(tmp_path)


@pytest.mark.parametrize(
    ("texts", "threads"),
    [
        (["100000 100000"], 1),
        (["max 100000"], None),
        (["-1", "100000"], None),
        (["50000", "100000"], 1),
    ],
)
def test_a_containers_quota_limits_the_threads(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, texts: list[str], threads: int | None
) -> None:
    """One file where the kernel is new, two where it is old."""
    files = [tmp_path / str(k) for k in range(len(texts))]
    for file, text in zip(files, texts):
        file.write_text(text, "ascii")
    monkeypatch.setattr(machine, "_QUOTA_FILES", ())
    unlimited = machine.cores()
    monkeypatch.setattr(machine, "_QUOTA_FILES", (tuple(map(str, files)),))
    assert machine.cores() == (threads or unlimited)


def test_an_input_size_picks_its_files_or_another_grid(small_files: Files) -> None:
    assert backends.load_network("tiny", "onnx", "cpu", 1, size=(96, 64)).info.input_size == (
        96,
        64,
    )
    front_end = load_front_end("tiny", "openvino", "cpu", 1, "fp32", size=(64, 32))
    assert front_end.info.input_size == (64, 32)
    slow = load_front_end("tiny", "auto", "cpu", 1, "fp32", target_fps=9, size=(64, 32))
    assert slow.info.input_size == (64, 32)
    for size in ((88, 64), (96, 0), (96 * 5, 64)):
        with pytest.raises(UsageError, match="take one of 96x64, or any other in multiples of 16"):
            backends.load_network("tiny", "openvino", "cpu", 1, size=size)


@pytest.mark.parametrize("size", [(128, 96), (112, 64), (96, 80), (80, 48), (272, 208)])
def test_every_engine_takes_any_size_in_steps_of_16(
    small_files: Files, size: tuple[int, int]
) -> None:
    frames = _frames(2)
    wanted = backends.load_network("tiny", "torch", "cpu", 1, "fp32", size=size)(frames)
    assert wanted[0].heatmaps.shape[1:] == (size[1] // 8, size[0] // 8)
    for runtime in ("onnx", "openvino"):
        pytest.importorskip(runtime.replace("onnx", "onnxruntime"))
        network = backends.load_network("tiny", runtime, "cpu", 1, "fp32", size=size)
        assert network.info.input_size == size
        for a, b in zip(wanted, network(frames)):
            for x, y in zip(_arrays(a), _arrays(b)):
                np.testing.assert_allclose(x, y, atol=2e-4 * np.abs(x).max())
        whole = backends.load_network("tiny", runtime, "cpu", 1, "int8", size=size)
        assert whole(frames)[0].heatmaps.shape == wanted[0].heatmaps.shape


def test_a_file_of_one_size_says_that_it_takes_no_other(
    small_files: Files, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:  # fmt: skip
    onnx = pytest.importorskip("onnx")
    model = onnx.load(small_files["fp32"])
    for value, sides in (
        (model.graph.input[0], (64, 96)),
        *((o, (8, 12)) for o in model.graph.output),
    ):
        dims = value.type.tensor_type.shape.dim
        first = 1 if value is model.graph.input[0] else 2
        for dim, side in zip(dims[first:], sides):
            dim.dim_value = side
    onnx.save(model, tmp_path / "fixed.onnx")
    name = str(tmp_path / "fixed.onnx")
    network = backends.load_network(name, "onnx", "cpu", 1, size=(96, 64))
    assert network(_frames(1))[0].heatmaps.shape[1:] == (8, 12)
    with pytest.raises(UsageError, match=r"no input of 64x32: take one of 96x64$"):
        backends.load_network(name, "onnx", "cpu", 1, size=(64, 32))
    with pytest.raises(UsageError, match="one each: export it anew"):
        load_front_end(name, "onnx", "cpu", 1, target_fps=30)
    with caplog.at_level(logging.INFO):
        load_front_end(name, "onnx", "cpu", 1, close_ups=True)
    assert "the file has one input size" in caplog.text


@pytest.mark.parametrize("runtime", ["onnx", "openvino"])
def test_a_second_look_finds_nobody_else_where_nobody_is(small_files: Files, runtime: str) -> None:
    pytest.importorskip(runtime.replace("onnx", "onnxruntime"))
    frames = _frames(2)
    plain = load_front_end("tiny", runtime, "cpu", 1, "fp32")
    two = load_front_end("tiny", runtime, "cpu", 1, "fp32", close_ups=True)
    assert two.info.input_size == (96, 64)
    for a, b in zip(plain(frames), two(frames)):
        assert all(p.score < 0.4 for p in a.people)  # so that the second look was taken
        assert b.stage_ms.keys() == a.stage_ms.keys()
        assert b.stage_ms["network"] > 0


class _InputOnly:
    """A picture of which nothing is left but what the usual look wants, as in a second process."""

    def __init__(self, image: np.ndarray, size: tuple[int, int]) -> None:
        self.shape, self._small = image.shape, cv2.resize(image, size)

    def whole(self) -> np.ndarray:
        raise ValueError("not here")

    def resized(self, out: np.ndarray, part: Box | None = None) -> None:
        assert part is None
        assert out.shape == self._small.shape
        out[:] = self._small

    def pixels(self, y: np.ndarray, x: np.ndarray) -> np.ndarray:
        raise ValueError("not here")


def test_the_second_look_needs_no_more_of_a_picture_than_the_first(small_files: Files) -> None:
    pytest.importorskip("openvino")
    two = load_front_end("tiny", "openvino", "cpu", 1, "fp32", close_ups=True)
    frames = _frames(2)
    there = [Frame(_InputOnly(f.image, (96, 54)), f.time_s, f.index, f.camera) for f in frames]
    for a, b in zip(two(frames), two(there)):
        assert [p.score for p in a.people] == [p.score for p in b.people]
