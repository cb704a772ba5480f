from __future__ import annotations

import gzip
import json
import shutil
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from manypose.calib.camera import Camera
from manypose.errors import ConfigError, ManyposeError, WeightsError
from manypose.models import own_networks, topdown
from manypose.models.front_end import load_front_end
from manypose.models.own_networks import DetectorConfig, PoseConfig
from manypose.pose import portraits
from manypose.pose.joints import COCO_NAMES, INDEX_2D
from manypose.pose.records import Frame

onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")

MEAN = "mean = [123.675, 116.28, 103.53]\nstd = [58.395, 57.12, 57.375]\n"


def _save(path: Path, nodes: list[Any], input_shape: list[Any], outputs: dict[str, Any]) -> None:
    """Write a small ONNX network; outputs maps names to shapes or to constant arrays."""
    nodes = list(nodes)
    described = []
    for name, what in outputs.items():
        shape = what
        if isinstance(what, np.ndarray):
            value = onnx.numpy_helper.from_array(what.astype(np.float32), name + "_value")
            nodes.append(onnx.helper.make_node("Constant", [], [name], value=value))
            shape = list(what.shape)
        described.append(onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, shape))
    x = onnx.helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, input_shape)
    graph = onnx.helper.make_graph(nodes, "g", [x], described)
    opset = [onnx.helper.make_opsetid("", 17)]
    onnx.save(onnx.helper.make_model(graph, opset_imports=opset, ir_version=8), str(path))


def _bright_spot_network(path: Path) -> None:
    """17 equal maps: the red channel in cells of 4 px, so that cell c lies at px 4 c + 1.5."""
    pick = np.zeros((17, 3, 1, 1), np.float32)
    pick[:, 0] = 1
    nodes = [
        onnx.helper.make_node(
            "AveragePool", ["x"], ["pooled"], kernel_shape=[4, 4], strides=[4, 4]
        ),
        onnx.helper.make_node(
            "Constant", [], ["w"], value=onnx.numpy_helper.from_array(pick, "pick")
        ),
        onnx.helper.make_node("Conv", ["pooled", "w"], ["maps"]),
    ]
    _save(path, nodes, ["n", 3, 128, 96], {"maps": ["n", 17, 32, 24]})


def _frame(image: np.ndarray) -> Frame:
    return Frame(image, 0.0, 0, Camera.from_fov(image.shape[1], image.shape[0]))


def _spot(x: float, y: float, height: int = 240, width: int = 320) -> np.ndarray:
    ys, xs = np.mgrid[:height, :width]
    blob = 255 * np.exp(-((xs - x) ** 2 + (ys - y) ** 2) / (2 * 9.0**2))
    return np.repeat(blob[..., None], 3, 2).astype(np.uint8)


@pytest.fixture
def described(tmp_path: Path) -> Path:
    """A top-down pair: a detector that always sees two boxes, a network that finds bright spots."""
    _bright_spot_network(tmp_path / "pose.onnx")
    rows = np.array([[[20, 20, 120, 140, 0.9], [160, 40, 260, 200, 0.8], [22, 20, 121, 142, 0.7],
                      [0, 0, 30, 30, 0.1]]])  # fmt: skip
    _save(tmp_path / "boxes.onnx", [], [1, 3, 240, 320], {"dets": rows})
    text = """
[pose]
kind = "heatmap"
file = "pose.onnx"
input = [96, 128]
std = [255, 255, 255]
cell = 4.0
offset = 1.5
blur = 3
licence = "ours"
[detector]
kind = "dets"
file = "boxes.onnx"
input = [320, 240]
fit = "stretch"
"""
    (tmp_path / "own.toml").write_text(text)
    return tmp_path / "own.toml"


def test_a_bright_spot_is_found_where_it_is(described: Path) -> None:
    front_end = load_front_end(str(described), "onnx", "cpu", 1)
    image = np.maximum(_spot(70.25, 81.5), _spot(205, 118.75))
    (found,) = front_end([_frame(image)])
    assert set(found.stage_ms) == {"detect", "network", "group"}
    assert len(found.people) == 2
    for person, wanted in zip(found.people, ((70.25, 81.5), (205, 118.75))):
        np.testing.assert_allclose(person.joints_px[:17], np.tile(wanted, (17, 1)), atol=0.35)
        assert np.isnan(person.joints_px[INDEX_2D["head_top"]]).all()
        for name, of in (("neck", "shoulder"), ("pelvis", "hip")):
            middle = (
                person.joints_px[INDEX_2D["l_" + of]] + person.joints_px[INDEX_2D["r_" + of]]
            ) / 2
            np.testing.assert_allclose(person.joints_px[INDEX_2D[name]], middle)
            assert person.confidence[INDEX_2D[name]] > 0
        assert person.encoding is None
    assert front_end.info.line().startswith("own (")


def test_several_frames_go_together_and_an_empty_one_is_empty(described: Path) -> None:
    front_end = load_front_end(str(described), "onnx", "cpu", 1)
    dark = np.zeros((240, 320, 3), np.uint8)
    found = front_end([_frame(dark), _frame(_spot(70, 80))])
    assert [len(f.people) for f in found] == [0, 1]
    assert front_end([]) == []


def test_a_sub_cell_peak_is_exact_away_from_the_border() -> None:
    ys, xs = np.mgrid[:64, :48]
    wanted = np.array([[20.3, 31.8], [5.5, 7.25], [40.1, 55.0]])
    maps = np.stack([np.exp(-((xs - x) ** 2 + (ys - y) ** 2) / 8.0) for x, y in wanted])
    for blur in (1, 3, 7):
        xy, score = portraits.highest(maps.astype(np.float32), blur)
        np.testing.assert_allclose(xy, wanted, atol=0.02)
        assert (score > 0.9).all()


def test_a_peak_at_the_border_stays_there() -> None:
    maps = np.zeros((2, 12, 10), np.float32)
    maps[0, 0, 0] = maps[1, 11, 9] = 1
    xy, _ = portraits.highest(maps, 7)
    np.testing.assert_array_equal(xy, [[0, 0], [9, 11]])


def test_the_mirrored_answer_is_mirrored_back(tmp_path: Path) -> None:
    config = PoseConfig(tmp_path, (48, 64), mirror=True, cell=1.0, blur=1)
    ys, xs = np.mgrid[:64, :48]
    centres = np.random.default_rng(0).uniform(10, 38, (17, 2))
    maps = np.stack([np.exp(-((xs - x) ** 2 + (ys - y) ** 2) / 8.0) for x, y in centres])
    swapped = maps[topdown._MIRROR][:, :, ::-1]
    joints = topdown._heatmap([np.stack([maps, swapped]).astype(np.float32)], config)
    np.testing.assert_allclose(joints[0, :, :2], centres, atol=0.03)
    shifted = np.roll(swapped, 3, -1)  # mirrored back it lies 3 cells to the left
    config = PoseConfig(tmp_path, (48, 64), mirror=True, cell=1.0, blur=1, mirror_shift=3.0)
    joints = topdown._heatmap([np.stack([maps, shifted]).astype(np.float32)], config)
    np.testing.assert_allclose(joints[0, :, :2], centres, atol=0.03)


def test_simcc_bins_are_halves_of_a_pixel(tmp_path: Path) -> None:
    config = PoseConfig(tmp_path, (192, 256), kind="simcc")
    x, y = np.zeros((1, 17, 384)), np.zeros((1, 17, 512))
    for k in range(17):
        x[0, k, 20 * k + 1], y[0, k, 25 * k + 3] = 0.9, 0.7
    joints = topdown._simcc([x, y], config)[0]
    np.testing.assert_allclose(joints[:, 0], (20 * np.arange(17) + 1) / 2)
    np.testing.assert_allclose(joints[:, 1], (25 * np.arange(17) + 3) / 2)
    np.testing.assert_allclose(joints[:, 2], 0.7)


def test_a_one_stage_network_needs_no_detector(tmp_path: Path) -> None:
    joints = np.zeros((1, 2, 17, 3))
    joints[0, 0, :, 0] = np.linspace(100, 200, 17)
    joints[0, 0, :, 1] = np.linspace(50, 250, 17)
    joints[0, 0, :, 2] = 0.8
    joints[0, 0, 3, 2] = 0.01  # not seen
    dets = np.array([[[90, 40, 210, 260, 0.9], [0, 0, 5, 5, 0.01]]])
    _save(tmp_path / "all.onnx", [], [1, 3, 320, 320], {"dets": dets, "keypoints": joints})
    (tmp_path / "rtmo.toml").write_text(
        '[pose]\nkind = "one-stage"\nfile = "all.onnx"\ninput = [320, 320]\nfit = "corner"\n'
        'outputs = ["dets", "keypoints"]\n'
    )
    front_end = topdown.load(tmp_path / "rtmo.toml", "onnx", "cpu", 1)
    (found,) = front_end([_frame(np.zeros((480, 640, 3), np.uint8))])
    (person,) = found.people
    np.testing.assert_allclose(person.joints_px[0], [199.5, 99.5])  # half the size: edges double
    assert np.isnan(person.joints_px[3]).all()
    assert person.confidence[3] == 0
    assert person.score == pytest.approx(0.9)


@pytest.mark.parametrize("how", ["stretch", "letterbox", "corner"])
def test_boxes_come_back_to_image_px(tmp_path: Path, how: str) -> None:
    image = np.zeros((100, 300, 3), np.uint8)
    _, scale, shift = topdown.fit(image, (320, 240), how, 114)
    box = np.array([30.0, 10, 120, 90])  # edges, from the picture's corner
    row = [*(box * np.tile(scale, 2) + np.tile(shift, 2)), 0.9]
    _save(tmp_path / "d.onnx", [], [1, 3, 240, 320], {"dets": np.array([[row]])})
    session = topdown.open_session(tmp_path / "d.onnx", "onnx", topdown.Wish(threads=1))
    config = DetectorConfig(tmp_path / "d.onnx", (320, 240), fit=how)
    found = topdown.find_boxes(session, config, image)
    np.testing.assert_allclose(found, [[29.5, 9.5, 119.5, 89.5, 0.9]], atol=1e-4)


def test_yolox_grids_are_decoded_row_by_row(tmp_path: Path) -> None:
    config = DetectorConfig(tmp_path, (64, 32), kind="yolox", strides=(8, 16))
    rows = np.zeros((1, 4 * 8 + 2 * 4, 6))
    rows[0, 8 + 3] = [0.5, 0.25, np.log(2), np.log(3), 0.5, 0.8]  # stride 8, column 3 of row 1
    rows[0, 32 + 5] = [0, 0, 0, 0, 1, 0.9]  # stride 16, column 1 of row 1
    boxes = topdown._yolox([rows], config)
    np.testing.assert_allclose(boxes[11], [28 - 8, 10 - 12, 28 + 8, 10 + 12, 0.4])
    np.testing.assert_allclose(boxes[37], [16 - 8, 16 - 8, 16 + 8, 16 + 8, 0.9])
    with pytest.raises(WeightsError, match="for these strides"):
        topdown._yolox([rows[:, :-1]], config)


def test_boxes_with_scores_by_class_are_read(tmp_path: Path) -> None:
    config = DetectorConfig(tmp_path, (64, 64), kind="boxes", person=1)
    boxes = np.array([[[0, 0, 9, 9], [5, 5, 20, 20], [1, 2, 3, 4]]])
    scores = np.array([[[0.1, 0.2, 0.3], [0.9, 0.8, 0.7]]])
    np.testing.assert_allclose(topdown._boxes([boxes, scores], config)[:, 4], [0.9, 0.8, 0.7])


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ('kind = "heatmap"|kind = "heatmaps"', "none of heatmap"),
        ("cell = 4.0|cel = 4.0", "did you mean cell"),
        ("input = [96, 128]|input = [96]", "is not a list"),
        ("input = [96, 128]|input = [1, 2]", "between 16 and 4096"),
        ('file = "pose.onnx"|file = "../pose.onnx"', "leads out"),
        ('file = "pose.onnx"|file = "/etc/passwd"', "leads out"),
        ('file = "pose.onnx"|file = "gone.onnx"', "is not there"),
        ("blur = 3|blur = 4", "must be odd"),
        ("std = [255, 255, 255]|std = [0, 1, 1]", "must not be 0"),
        ("std = [255, 255, 255]|std = [nan, 1, 1]", "is not a number"),
        ("[detector]|[detectors]", "unknown table"),
        ("[pose]|[pose", "not a TOML file"),
        ('licence = "ours"|sha256 = "00"', "damaged or changed"),
        ('kind = "dets"|kind = "boxes"', "answers (1, N, 4)"),
        ('kind = "heatmap"|kind = "simcc"', "answers (N, 17, bins"),
        ('licence = "ours"|outputs = ["heat"]', "has no output 'heat'"),
    ],
)
def test_mistakes_in_the_description_are_said_in_one_line(
    described: Path, change: str, said: str
) -> None:
    old, new = change.split("|")
    text = described.read_text()
    assert old in text
    described.write_text(text.replace(old, new, 1))
    with pytest.raises(ManyposeError) as caught:
        topdown.load(described, "onnx", "cpu", 1)
    assert said in str(caught.value)
    assert "\n" not in str(caught.value).strip()


def test_a_pose_network_needs_its_detector(described: Path) -> None:
    text = described.read_text()
    described.write_text(text[: text.index("[detector]")])
    with pytest.raises(ConfigError, match=r"needs a \[detector\]"):
        own_networks.read(described)


@pytest.mark.slow
def test_tinypose_and_picodet_find_the_people_of_photographs(shared: Path, tmp_path: Path) -> None:
    pytest.importorskip("openvino")
    teachers, real = shared / "data" / "teachers", shared / "data" / "real"
    if not (teachers / "tinypose256.xml").exists() or not real.exists():
        pytest.skip("no teachers here")
    for name in ("tinypose256", "picodet320"):
        for suffix in (".xml", ".bin"):
            shutil.copyfile(teachers / (name + suffix), tmp_path / (name + suffix))
    (tmp_path / "tinypose.toml").write_text(
        '[pose]\nkind = "heatmap"\nfile = "tinypose256.xml"\ninput = [192, 256]\ncell = 4.0\n'
        + MEAN
        + '[detector]\nkind = "boxes"\nfile = "picodet320.xml"\ninput = [320, 320]\n'
        'fit = "stretch"\n' + MEAN
    )
    front_end = topdown.load(tmp_path / "tinypose.toml", "auto", "cpu", 1)
    with gzip.open(real / "labels_val.json.gz", "rt") as f:
        rows = json.load(f)["images"]
    errors = []
    easy = [
        r
        for r in rows
        if r["source"].startswith("coco")
        and len(r["persons"]) == 1
        and r["persons"][0]["num_keypoints"] > 14
    ]
    for row in easy[:4]:
        data = (real / row["shard"]).read_bytes()[row["offset"] :][: row["length"]]
        image = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)
        (found,) = front_end([_frame(np.asarray(image, np.uint8))])
        for person in row["persons"]:
            truth = np.array(person["keypoints"], float).reshape(17, 3)
            seen = truth[:, 2] > 0
            if seen.sum() < 8:
                continue
            gaps = [
                np.nanmedian(np.linalg.norm(p.joints_px[:17][seen] - truth[seen, :2], axis=1))
                for p in found.people
                if np.isfinite(p.joints_px[:17][seen]).any()
            ]
            errors.append(min(gaps, default=np.inf) / np.sqrt(person["area"]))
    assert len(errors) == 4
    assert np.median(errors) < 0.06


def test_the_joint_order_is_cocos() -> None:
    assert COCO_NAMES[0] == "nose"
    assert [COCO_NAMES[i] for i in topdown._MIRROR][5:7] == ["r_shoulder", "l_shoulder"]
