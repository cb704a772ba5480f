"""Every export read back by an independent reader: joints where they were, gaps as gaps."""

from __future__ import annotations

import json
import struct
from pathlib import Path

import numpy as np
import pytest
from export_case import HZ, read_bvh, store, y_up
from scipy.spatial.transform import Rotation

from manypose.app.export import check_formats, export_run
from manypose.app.exports import EXPORTERS, Options
from manypose.app.exports.motion import motions, source_rate
from manypose.app.formats.reading import load_run
from manypose.errors import UsageError
from manypose.pose.joints import INDEX, JOINTS, ROOT


@pytest.fixture
def stored(tmp_path: Path) -> Path:
    """Return the folder of a run: two people at 30 Hz, the second leaves for a second."""
    return store(tmp_path / "clip")


def test_bvh_fk_roundtrip(stored: Path) -> None:
    export_run(stored, ["bvh"], options=Options(ground=False))
    run = load_run(stored)
    found, step = read_bvh((stored / "person_3.bvh").read_text())
    want = y_up(run, 3)
    assert step == pytest.approx(1 / HZ, abs=1e-8)
    for name in ("pelvis", "neck", "l_wrist", "r_ankle", "head"):
        np.testing.assert_allclose(found[name], want[:, INDEX[name]], atol=2e-5)
    np.testing.assert_allclose(found["end.r_wrist"], want[:, INDEX["r_hand"]], atol=2e-5)
    export_run(stored, ["bvh"], options=Options(ground=False, units="m"))
    small, _ = read_bvh((stored / "person_3.bvh").read_text())
    np.testing.assert_allclose(100 * small["l_wrist"], found["l_wrist"], atol=2e-3)


def test_bvh_holds_a_gap_and_has_one_file_each(stored: Path) -> None:
    export_run(stored, ["bvh"])
    assert sorted(p.name for p in stored.glob("*.bvh")) == ["person_3.bvh", "person_8.bvh"]
    found, _ = read_bvh((stored / "person_8.bvh").read_text())
    assert len(found["pelvis"]) == 80  # from its first to its last frame
    still = found["l_wrist"][20:50]
    np.testing.assert_allclose(still, np.broadcast_to(still[0], still.shape), atol=1e-6)


def test_bvh_rest_pose_is_a_t_pose_that_faces_z(stored: Path) -> None:
    export_run(stored, ["bvh"])
    text = (stored / "person_3.bvh").read_text()
    head, motion = text.split("MOTION")
    zeros = " ".join(["0"] * len(motion.split("\n")[3].split()))
    found, _ = read_bvh(f"{head}MOTION\nFrames: 1\nFrame Time: 0.03\n{zeros}\n")
    assert found["l_wrist"][0, 0] > 0.5 > found["l_wrist"][0, 1] - found["l_shoulder"][0, 1]
    assert found["end.l_ankle"][0, 2] > 0.1  # toes to the front
    assert found["head"][0, 1] > found["pelvis"][0, 1] > found["l_ankle"][0, 1]


def test_people_stand_on_the_ground(stored: Path) -> None:
    export_run(stored, ["bvh"])
    found, _ = read_bvh((stored / "person_3.bvh").read_text())
    lowest = np.minimum(found["end.l_ankle"][:, 1], found["end.r_ankle"][:, 1])
    assert 0 < np.percentile(lowest, 5) < 0.15


def test_trc_layout(stored: Path) -> None:
    export_run(stored, ["trc"], options=Options(ground=False, units="mm"))
    lines = (stored / "person_8.trc").read_text().split("\n")
    assert lines[0] == "PathFileType\t4\t(X/Y/Z)\tperson_8.trc"
    assert lines[2].split("\t")[:5] == ["30", "30", "80", "21", "mm"]
    assert lines[3].split("\t")[:6] == ["Frame#", "Time", "head_top", "", "", "neck"]
    assert lines[4].split("\t")[2:5] == ["X1", "Y1", "Z1"]
    assert lines[5] == ""
    cells = lines[6].split("\t")
    want = y_up(load_run(stored), 8)[0] * 1000
    np.testing.assert_allclose([float(v) for v in cells[2:5]], want[0], atol=1e-2)
    assert len(cells) == 2 + 63
    assert lines[6 + 30].split("\t")[2:] == [""] * 64  # in the gap; a tab ends the last cell


def test_mot_is_in_degrees_and_complete(stored: Path) -> None:
    export_run(stored, ["mot"])
    head, body_text = (stored / "person_3.mot").read_text().split("endheader\n")
    rows = body_text.strip().split("\n")
    assert "nRows=90" in head
    assert "inDegrees=yes" in head
    assert f"nColumns={len(rows[0].split(chr(9)))}" in head
    names = rows[0].split("\t")
    values = np.array([[float(v) for v in r.split("\t")] for r in rows[1:]])
    np.testing.assert_allclose(values[:, names.index("r_elbow_flexion")], np.degrees(0.8), atol=0.1)
    np.testing.assert_allclose(values[:, 0], np.arange(90) / HZ, atol=1e-6)


def test_c3d_nan(stored: Path) -> None:
    ezc3d = pytest.importorskip("ezc3d")
    export_run(stored, ["c3d"], options=Options(ground=False))
    c3d = ezc3d.c3d(str(stored / "person_8.c3d"))
    points = c3d["data"]["points"]
    assert c3d["parameters"]["POINT"]["LABELS"]["value"] == list(JOINTS)
    assert c3d["parameters"]["POINT"]["UNITS"]["value"] == ["mm"]
    assert np.isnan(points[:3, :, 30]).all()
    x, y, z = y_up(load_run(stored), 8)[0].T * 1000
    np.testing.assert_allclose(points[:3, :, 0], [x, -z, y], atol=0.01)


def test_glb_moves_its_bones_as_the_run(stored: Path) -> None:
    export_run(stored, ["glb"], options=Options(ground=False))
    raw = (stored / "people.glb").read_bytes()
    magic, version, length = struct.unpack("<III", raw[:12])
    assert (magic, version, length) == (0x46546C67, 2, len(raw))
    size = struct.unpack("<I", raw[12:16])[0]
    doc = json.loads(raw[20 : 20 + size])
    binary = raw[28 + size :]

    def array(number: int) -> np.ndarray:
        a = doc["accessors"][number]
        view = doc["bufferViews"][a["bufferView"]]
        width = {"SCALAR": 1, "VEC3": 3, "VEC4": 4}[a["type"]]
        return np.frombuffer(binary, "<f4", a["count"] * width, view["byteOffset"]).reshape(
            -1, width
        )

    animation = doc["animations"][0]
    tracks = {
        (c["target"]["node"], c["target"]["path"]): array(
            animation["samplers"][c["sampler"]]["output"]
        )
        for c in animation["channels"]
    }
    parent = {c: i for i, node in enumerate(doc["nodes"]) for c in node.get("children", [])}
    want = y_up(load_run(stored), 3)
    times = array(animation["samplers"][0]["input"])
    np.testing.assert_allclose(times[:, 0], np.arange(90) / HZ, atol=1e-6)
    for name in ("l_wrist", "r_foot", "head_top"):
        i = next(k for k, n in enumerate(doc["nodes"]) if n["name"] == f"{name}.3")
        place, chain = np.zeros((90, 3)), [i]
        while chain[-1] in parent:
            chain.append(parent[chain[-1]])
        for k in chain:
            node = doc["nodes"][k]
            turn = tracks.get((k, "rotation"), np.tile(node["rotation"], (90, 1)))
            place = Rotation.from_quat(turn).apply(place)
            place = place + tracks.get((k, "translation"), np.array(node["translation"]))
        np.testing.assert_allclose(place, want[:, INDEX[name]], atol=1e-4)


def test_openpose_folder(stored: Path) -> None:
    export_run(stored, ["openpose"])
    files = sorted((stored / "openpose").iterdir())
    assert len(files) == 90
    assert files[0].name == "clip_000000000000_keypoints.json"
    doc = json.loads(files[0].read_text())
    assert doc["version"] == 1.3
    assert [p["person_id"] for p in doc["people"]] == [[3], [8]]
    points = np.array(doc["people"][0]["pose_keypoints_2d"]).reshape(25, 3)
    np.testing.assert_allclose(points[0], [100.5, 50.25, 0.9])
    assert not points[19:].any()


def test_motchallenge_counts_from_one(stored: Path) -> None:
    export_run(stored, ["motchallenge"])
    lines = (stored / "motchallenge.txt").read_text().strip().split("\n")
    assert len(lines) == 140
    first = lines[0].split(",")
    assert first[:6] == ["1", "3", "10.000", "20.000", "30.000", "40.000"]


def test_parquet_has_a_row_for_each_joint(stored: Path) -> None:
    parquet = pytest.importorskip("pyarrow.parquet")
    export_run(stored, ["parquet"])
    table = parquet.read_table(stored / "pose.parquet")
    assert table.num_rows == 140 * 21
    assert table.column("state")[0].as_py() == "seen"


def test_true_times_are_resampled(stored: Path) -> None:
    run = load_run(stored)
    run.t[:] = run.t + np.r_[0, 0.004 * np.sin(np.arange(1, 90))]  # variable frame rate
    motion = motions(run, Options(rate_hz=50, ground=False))[0]
    np.testing.assert_allclose(np.diff(motion.time_s), 0.02, atol=1e-9)
    where = run.t[run.row_frame[run.person(3)]]
    want = np.interp(motion.time_s, where, y_up(run, 3)[:, ROOT, 0])
    np.testing.assert_allclose(motion.joints_m[:, ROOT, 0], want, atol=1e-6)


def test_the_usual_rates_are_named() -> None:
    class Timed:
        t = np.arange(100) * 1001 / 30000

    assert source_rate(Timed()) == 30000 / 1001  # type: ignore[arg-type]


def test_a_known_floor_is_the_world(stored: Path) -> None:
    run = load_run(stored)
    R = Rotation.from_euler("x", 170, degrees=True).as_matrix()
    run.meta["camera"] = {"R": R.tolist(), "t": [0, 1.5, 0]}
    motion = motions(run, Options())[0]
    want = (run.kp3d[run.person(3)] - [0, 1.5, 0]) @ R
    np.testing.assert_allclose(motion.joints_m, want, atol=1e-5)


@pytest.mark.parametrize("up", [None, [0.0, 0.0, 0.0], "?", [0.0, -np.cos(0.3), -np.sin(0.3)]])
def test_where_up_became_known_people_stand_upright(stored: Path, up: object) -> None:
    run = load_run(stored)
    plain = motions(run, Options(ground=False))[0].joints_m
    run.meta["up"] = up
    joints = motions(run, Options(ground=False))[0].joints_m
    if not isinstance(up, list) or not any(up):
        np.testing.assert_array_equal(joints, plain)
        return
    # what is up for the camera is the y axis now
    np.testing.assert_allclose(joints[..., 1], run.kp3d[run.person(3)] @ up, atol=1e-5)
    np.testing.assert_allclose(joints[..., 0], plain[..., 0], atol=1e-5)


def test_a_runs_own_formats_are_written_where_they_are_missing(stored: Path) -> None:
    before = (stored / "pose.npz").read_bytes()
    files = export_run(stored, ["csv", "npz", "jsonl"])
    assert [f.name for f in files] == ["pose.csv", "pose.npz", "pose.jsonl"]
    assert (stored / "pose.npz").read_bytes() == before
    again = load_run(stored / "pose.jsonl")
    np.testing.assert_allclose(again.kp3d, load_run(stored).kp3d, atol=1e-5)
    rows = (stored / "pose.csv").read_text("utf-8").splitlines()
    assert len(rows) == 1 + 26 * len(again.id)
    with pytest.raises(UsageError, match="everybody"):
        export_run(stored, ["csv"], options=Options(ids=(3,)))


def test_nobody_is_no_error(stored: Path) -> None:
    run = load_run(stored)
    for name, (module, _) in EXPORTERS.items():
        if name in ("c3d", "parquet"):
            pytest.importorskip("ezc3d" if name == "c3d" else "pyarrow")
        import importlib

        importlib.import_module(module).export(run, stored / "none", Options(ids=(99,)))


def test_an_export_of_nothing_says_why(stored: Path, caplog: pytest.LogCaptureFixture) -> None:
    assert export_run(stored, ["bvh"], options=Options(ids=(99,))) == []
    assert "bvh: nothing to write" in caplog.text


def test_unknown_formats_name_the_nearest() -> None:
    with pytest.raises(UsageError, match="bvh"):
        check_formats(["bhv"])
