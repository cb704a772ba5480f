from __future__ import annotations

import contextlib
import json
import re
import socket
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from drawn_engine import drawn_engine, truth
from made_clips import clip, cut, picture, spoil

from manypose.app import run as run_module
from manypose.app.config import Config
from manypose.app.formats.reading import load_run
from manypose.app.main import main
from manypose.app.pipeline import Engine
from manypose.app.sources import Counts, LiveSource, Source, SourceInfo, open_source
from manypose.pose import skeleton as sk
from manypose.pose.joints import COCO_NAMES, INDEX, JOINTS, JOINTS_2D, MISSING, PARENT, ROOT

HERE = Path(__file__).resolve().parent
Call = Callable[..., int]


def test_a_run_writes_every_native_file(call: Call, capsys: pytest.CaptureFixture[str]) -> None:
    assert call(clip(), "-o", "out", "--video") == 0
    folder = Path("out/clip")
    assert sorted(p.name for p in folder.iterdir() if p.name != "rotations.npz") == [
        "coco.json", "events.jsonl", "meta.json", "overlay.mp4", "pose.csv", "pose.jsonl",
        "pose.npz",
    ]  # fmt: skip
    out, err = capsys.readouterr()
    assert out == f"{folder}\n"
    assert "clip.mp4" in err
    with np.load(folder / "pose.npz", allow_pickle=False) as data:
        assert set(data) == {
            "t", "frame", "n", "row_frame", "id", "score", "box", "kp2d", "kp3d", "state", "root",
            "joint_names", "kp2d_names", "parents", "meta_json",
        }  # fmt: skip
        assert tuple(data["joint_names"]) == JOINTS
        assert tuple(data["kp2d_names"]) == JOINTS_2D
        assert tuple(data["kp2d_names"][:17]) == COCO_NAMES
        rows = len(data["id"])
        assert data["t"].dtype == np.float64
        assert data["kp3d"].shape == (rows, 21, 3)
        assert data["kp2d"].shape == (rows, 20, 3)
        assert list(data["frame"]) == list(range(12))
        assert data["n"].sum() == rows > 12
        last = data["row_frame"] == 11
        for person, joints in zip((0, 1), data["kp3d"][last]):
            wanted = truth(11, person)[1]
            assert np.linalg.norm(joints - wanted, axis=1).mean() < 0.2
        np.testing.assert_array_equal(data["kp3d"][:, INDEX["pelvis"]], data["root"])
        hidden = data["kp2d"][last][1, JOINTS_2D.index("r_wrist")]
        assert np.isnan(hidden[:2]).all()
        assert hidden[2] == 0
    meta = json.loads((folder / "meta.json").read_text())
    assert meta["schema"] == "manypose/1"
    assert meta["status"] == "ok"
    assert meta["scale_source"] == "fov-guess"
    assert meta["camera"]["K"][2] == [0, 0, 1]
    assert meta["units"]["kp3d"] == "m"
    summary = meta["summary"]
    assert summary["frames_read"] == summary["frames_reported"] == 12
    assert (summary["people"], summary["ids"]) == (2, 2)
    assert len(meta["source"]["sha256"]) == 64


def test_axes(call: Call) -> None:
    """A T-pose facing the camera has its right wrist at the image left: x below the pelvis."""
    assert call(clip(), "--format", "npz") == 0
    run = load_run("out/clip")
    right, left = run.kp3d[:, INDEX["r_wrist"]], run.kp3d[:, INDEX["l_wrist"]]
    assert (right[:, 0] < run.root[:, 0]).all()
    assert (left[:, 0] > run.root[:, 0]).all()
    assert (run.kp3d[:, INDEX["head_top"], 1] < run.kp3d[:, INDEX["r_ankle"], 1]).all()
    assert (run.kp3d[..., 2] > 0).all()


def test_the_files_tell_the_same(call: Call) -> None:
    assert call(clip(), "-o", "out") == 0
    run = load_run("out/clip/pose.npz")
    lines = [json.loads(line) for line in Path("out/clip/pose.jsonl").read_text().splitlines()]
    assert [line["frame"] for line in lines] == list(run.frame)
    assert [len(line["persons"]) for line in lines] == list(run.n)
    again = load_run("out/clip/pose.jsonl")
    np.testing.assert_allclose(again.kp3d, run.kp3d, atol=1e-5)
    np.testing.assert_array_equal(np.isnan(again.kp2d), np.isnan(run.kp2d))
    table = Path("out/clip/pose.csv").read_text().splitlines()
    assert table[0] == "frame,t,id,joint,x_px,y_px,conf,x_m,y_m,z_m,state"
    assert len(table) == 1 + 26 * len(run.id)
    assert all(line.count(",") == 10 for line in table)
    first = [line.split(",") for line in table[1:27]]
    for row in first:
        if row[3] in INDEX:
            np.testing.assert_allclose(
                [float(v) for v in row[7:10]], run.kp3d[0, INDEX[row[3]]], atol=1e-5
            )
    events = [json.loads(x) for x in Path("out/clip/events.jsonl").read_text().splitlines()]
    assert {e["event"] for e in events} == {"person_appears"}
    frames = list(run)
    assert len(frames[-1].persons) == 2
    assert frames[-1].persons[0].kp3d.shape == (21, 3)


def test_export_no_nan_coco(call: Call) -> None:
    assert call(clip(), "--format", "coco", "--still") == 0
    results = json.loads(Path("out/clip/coco.json").read_text())
    assert {r["image_id"] for r in results} == set(range(12))
    points = np.array([r["keypoints"] for r in results]).reshape(-1, 17, 3)
    assert np.isfinite(points).all()
    wrist = points[1, COCO_NAMES.index("r_wrist")]
    assert list(wrist) == [0, 0, 0]


def test_coco_of_pictures_is_scored_by_cocos_own_tool(call: Call) -> None:
    coco = pytest.importorskip("pycocotools.coco")
    from pycocotools.cocoeval import COCOeval

    Path("pictures").mkdir()
    for number in (139, 17):
        cv2.imwrite(f"pictures/{number:012d}.jpg", picture(0, 480, 288))
    assert call("pictures", "--still", "--format", "npz,coco") == 0
    results = json.loads(Path("out/pictures/coco.json").read_text())
    assert [r["image_id"] for r in results] == [17, 17, 139, 139]
    assert load_run("out/pictures").meta["files"] == ["000000000017.jpg", "000000000139.jpg"]
    truths = []
    for i, r in enumerate(results):
        points = np.array(r["keypoints"]).reshape(17, 3)
        points[:, 2] = np.where(points[:, 2] > 0, 2, 0)
        truths.append(
            {"id": i + 1, "image_id": r["image_id"], "category_id": 1, "iscrowd": 0,
             "keypoints": points.ravel().tolist(), "num_keypoints": int((points[:, 2] > 0).sum()),
             "area": 9000.0, "bbox": [0, 0, 100, 200]}
        )  # fmt: skip
    known = coco.COCO()
    known.dataset = {"images": [{"id": 17}, {"id": 139}], "annotations": truths,
                     "categories": [{"id": 1, "name": "person"}], "info": {}}  # fmt: skip
    known.createIndex()
    score = COCOeval(known, known.loadRes("out/pictures/coco.json"), "keypoints")
    score.evaluate()
    score.accumulate()
    score.summarize()
    assert score.stats[0] == pytest.approx(1.0)


def test_truncated_exit3(call: Call, capsys: pytest.CaptureFixture[str]) -> None:
    assert call(cut(clip(frames=30, faststart=True), 0.6), "--format", "npz") == 3
    assert "truncated" in capsys.readouterr().err
    assert len(load_run("out/clip")) > 8
    assert load_run("out/clip").meta["status"] == "partial"


def test_corrupt_middle(call: Call, capsys: pytest.CaptureFixture[str]) -> None:
    assert call(spoil(clip(frames=30, faststart=True), 6000), "--format", "npz") == 0
    summary = load_run("out/clip").meta["summary"]
    assert summary["frames_read"] == summary["frames_reported"] + summary["undecodable"]
    if summary["undecodable"]:
        assert "damaged" in capsys.readouterr().err


def test_empty_file_exit4(call: Call, capsys: pytest.CaptureFixture[str]) -> None:
    Path("empty.mp4").touch()
    Path("text.mp4").write_text("some text\n" * 99)
    for name in ("empty.mp4", "text.mp4", "missing.mp4", "missing"):
        assert call(name) == 4
        lines = [x for x in capsys.readouterr().err.splitlines() if x.startswith("manypose:")]
        assert len(lines) == 1
        assert name in lines[0]
    assert not list(Path().glob("out/*"))


def test_one_bad_file_never_stops_the_rest(call: Call, capsys: pytest.CaptureFixture[str]) -> None:
    Path("bad.mp4").write_bytes(b"no video")
    assert call("bad.mp4", clip("good.mp4"), "--json", "--format", "npz") == 3
    report = json.loads(capsys.readouterr().out)
    assert report["status"] == "partial"
    assert [i["status"] for i in report["inputs"]] == ["failed", "ok"]
    assert report["inputs"][0]["exit_code"] == 4


def test_trees_globs_and_lists(call: Call) -> None:
    for name in ("tree/a/x.mp4", "tree/b/x.mp4", "tree/x.mov"):
        Path(name).parent.mkdir(parents=True, exist_ok=True)
        clip(name, 4)
    Path("tree/shots").mkdir()
    cv2.imwrite("tree/shots/1.png", picture(0, 480, 288))
    assert call("tree", "-o", "t", "--format", "npz") == 0
    found = sorted(str(p.parent) for p in Path("t").rglob("pose.npz"))
    assert found == ["t/a/x", "t/b/x", "t/shots", "t/x"]
    assert call("tree/*/*.mp4", "-o", "g", "--format", "npz") == 0
    assert sorted(p.name for p in Path("g").iterdir()) == ["x", "x-2"]
    Path("list.txt").write_text("# two\ntree/x.mov\n\ntree/a/x.mp4\n")
    assert call("list.txt", "-o", "l", "--format", "npz") == 0
    assert sorted(p.name for p in Path("l").iterdir()) == ["x", "x-2"]
    assert call("nothing*.mp4", "-o", "n") == 4


def test_results_are_not_replaced_unasked(call: Call, capsys: pytest.CaptureFixture[str]) -> None:
    assert call(clip()) == 0
    assert call("clip.mp4") == 2
    assert "--overwrite" in capsys.readouterr().err
    assert call("clip.mp4", "--overwrite", "--format", "npz") == 0
    assert not Path("out/clip/pose.csv").exists()


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["--fromat", "npz"], "did you mean --format?"),
        (["--format", "npx"], "did you mean npz?"),
        (["--set", "people.maks=3"], "did you mean people.max?"),
        (["--set", "people.max"], "section.key=value"),
        (["--fov", "wide"], "camera.fov_deg"),
        (["--overwrite", "--resume"], "not allowed with"),
        (["--export", "bwh"], "bvh"),
    ],
)
def test_wrong_use_exit2(
    call: Call, capsys: pytest.CaptureFixture[str], words: list[str], says: str
) -> None:
    assert call(clip(frames=2), *words) == 2
    err = capsys.readouterr().err
    assert says in err
    assert "Traceback" not in err
    assert not Path("out").exists()


def test_no_input_is_wrong_use(call: Call) -> None:
    assert call() == 2


def test_fov_and_rotate_reach_the_camera(call: Call) -> None:
    assert call(clip(), "--fov", "90", "--rotate", "90", "--format", "npz") == 0
    meta = load_run("out/clip").meta
    assert (meta["camera"]["source"], meta["camera"]["width"]) == ("fov", 288)
    assert meta["camera"]["K"][0][0] == pytest.approx(144)
    assert meta["source"]["rotation_deg"] == 90


def test_missing_weights_exit5(quiet_home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    clip(frames=2)
    assert main(["run", "clip.mp4", "--model", "no_such_network.onnx"]) == 5
    err = capsys.readouterr().err
    assert "no_such_network" in err
    assert "Traceback" not in err
    Path("damaged.onnx").write_bytes(b"\x08\x07 not a network")
    assert main(["run", "clip.mp4", "--model", "damaged.onnx"]) == 5
    assert not Path("out").exists()


def test_an_input_size_that_cannot_be_had_ends_the_run_at_once(
    quiet_home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    clip(frames=2)
    Path("more.mp4").write_bytes(Path("clip.mp4").read_bytes())
    for words in (["--input", "400x244"], ["--input", "512x320", "--careful"]):
        assert main(["run", "clip.mp4", "more.mp4", *words]) == 2
        err = capsys.readouterr().err
        assert err.count("--input" if "--careful" in words else "400x244") == 1
        assert "Traceback" not in err
    assert not Path("out").exists()


def test_disk_trouble_exit5(call: Call, capsys: pytest.CaptureFixture[str]) -> None:
    Path("out").write_text("a file where the folder should be")
    assert call(clip()) == 5
    assert "cannot be written" in capsys.readouterr().err


@pytest.mark.slow
def test_no_gui_imports(quiet_home: Path) -> None:
    clip(frames=3)
    code = (
        "import sys, manypose\n"
        "assert not {'cv2', 'torch', 'PyQt5', 'matplotlib'} & set(sys.modules)\n"
        f"sys.path.insert(0, {str(HERE)!r}); import drawn_engine\n"
        "from manypose.app import pipeline; pipeline.load_engine = drawn_engine.drawn_engine\n"
        "from manypose.app.main import main\n"
        "assert main(['run', 'clip.mp4', '--no-gui', '-q']) == 0\n"
        "assert not {'torch', 'PyQt5', 'pyqtgraph', 'matplotlib'} & set(sys.modules)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_states_and_missing_values_agree(call: Call) -> None:
    assert call(clip(), "--format", "npz") == 0
    run = load_run("out/clip")
    missing = run.state == MISSING
    assert np.isnan(run.kp3d[missing]).all()
    assert np.isfinite(run.kp3d[~missing]).all()


def test_smooth_rewrites_the_results_once_and_says_so(call: Call) -> None:
    assert call(clip(frames=24), "-o", "out", "--smooth", "kalman") == 0
    run = load_run(Path("out/clip"))
    assert run.meta["smooth"] == "kalman"
    assert run.meta["status"] == "ok"
    again = run.kp3d.copy()
    assert call(Path("clip.mp4"), "-o", "out", "--smooth", "kalman", "--resume") == 0
    np.testing.assert_array_equal(load_run(Path("out/clip")).kp3d, again)
    assert call(Path("clip.mp4"), "-o", "-", "--smooth", "kalman") == 2


def test_recordings_are_smoothed_unless_somebody_waits(call: Call, tmp_path: Path) -> None:
    """Positions and rotations of a smoothed run are those of one body, with its bones."""
    assert call(clip(frames=24), "-o", "out") == 0
    run = load_run(Path("out/clip"))
    assert run.meta["smooth"] == "adaptive"
    assert run.quat is not None
    whole = np.isfinite(run.kp3d).all((1, 2))
    assert whole.sum() > 20
    up = [p if p >= 0 else ROOT for p in PARENT]
    bones = np.linalg.norm(run.kp3d - run.kp3d[:, up], axis=-1)[whole].astype(float)
    places, _ = sk.forward(run.root[whole].astype(float), run.quat[whole].astype(float),
                           sk.offsets_m(bones))  # fmt: skip
    np.testing.assert_allclose(places[:, :21], run.kp3d[whole], atol=1e-4)
    assert (np.isfinite(run.kp3d).all(-1) == (run.state != MISSING)).all()
    for n, words in enumerate((("--filter", "fast"), ("--format", "csv"), ("--still",),
                               ("--udp", "127.0.0.1:59999"), ("--smooth", "none"))):  # fmt: skip
        assert call(Path("clip.mp4"), "-o", f"out{n}", *words) == 0
        meta = json.loads(Path(f"out{n}/clip/meta.json").read_text("utf-8"))
        assert "smooth" not in meta


def test_a_run_reaches_receivers_while_it_goes_on(call: Call) -> None:
    """UDP, OSC by python-osc's own server, and a WebSocket client that stops to listen."""
    dispatcher = pytest.importorskip("pythonosc.dispatcher")
    from pythonosc.osc_server import ThreadingOSCUDPServer
    from websockets.sync.client import connect

    told: list[tuple[str, int]] = []
    desk = dispatcher.Dispatcher()
    desk.map("/manypose/person", lambda address, number, score: told.append((address, number)))
    heard: list[dict[str, object]] = []

    def listen(port: int) -> None:
        while True:
            with contextlib.suppress(OSError), connect(f"ws://127.0.0.1:{port}") as client:
                heard.append(json.loads(client.recv(5)))
                return  # and hears no more

    with (
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as udp,
        ThreadingOSCUDPServer(("127.0.0.1", 0), desk) as osc,
        socket.socket() as taken,
    ):
        udp.bind(("127.0.0.1", 0))
        udp.settimeout(3)
        taken.bind(("127.0.0.1", 0))
        port = taken.getsockname()[1]
        taken.close()
        threading.Thread(target=osc.serve_forever, daemon=True).start()
        client = threading.Thread(target=listen, args=(port,), daemon=True)
        client.start()
        words = ["--udp", f"127.0.0.1:{udp.getsockname()[1]}", "--osc", str(osc.server_address[1])]
        words += ["--websocket", str(port), "--realtime", "--format", "npz"]
        assert call(clip(frames=30), *words) == 0
        client.join(5)
        first = json.loads(udp.recv(70000))
        osc.shutdown()
    assert first["schema"] == "manypose/1"
    assert first["t"] == 0
    assert heard[0]["schema"] == "manypose/1"
    assert {number for _, number in told} == set(load_run("out/clip").id)


def test_a_receiver_that_is_not_there_changes_nothing(
    call: Call, capsys: pytest.CaptureFixture[str]
) -> None:
    assert call(clip(frames=30), "--udp", "127.0.0.1:9", "--format", "npz") == 0
    assert len(load_run("out/clip")) == 30
    assert re.search(r"UDP 127.0.0.1:9: \d+ results sent", capsys.readouterr().err)
    assert call("clip.mp4", "-o", "x", "--udp", "nowhere") == 2
    assert "HOST:PORT" in capsys.readouterr().err
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        assert call("clip.mp4", "-o", "x", "--websocket", str(taken.getsockname()[1])) == 5
    assert not Path("x").exists()


def test_files_and_cameras_have_engines_of_their_own(
    call: Call, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []

    def load(config: Config, **how: Any) -> Engine:
        asked.append(config.model.long_shots)
        return drawn_engine(config, **how)

    def opened(address: str, config: Config) -> Source:
        source = open_source(address, config)
        if "camera" not in address:
            return source
        info = SourceInfo("camera", "camera:0", "made", fps=30.0)
        return LiveSource(info, lambda _: iter(source), Counts())

    monkeypatch.setattr(run_module, "load_engine", load)
    monkeypatch.setattr(run_module, "open_source", opened)
    files = [clip(name=f"{name}.mp4") for name in ("camera_1", "file_1", "camera_2", "file_2")]
    assert call(*files, "-o", "out") == 0
    assert asked == ["never", "recorded"]
    assert len(list(Path("out").glob("*/pose.npz"))) == 4
