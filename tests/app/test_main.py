from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from drawn_engine import drawn_engine
from made_clips import picture, write_clip

import manypose
from manypose.app import api, doctor, doctor_window
from manypose.app import run as run_module
from manypose.app.formats.reading import load_run
from manypose.app.main import EXAMPLES, VERBS, main
from manypose.app.rescale import body_height_m
from manypose.errors import SourceError

Capture = pytest.CaptureFixture[str]
ROOT = Path(__file__).resolve().parents[2]


def test_help_lists_every_verb(quiet_home: Path, capsys: Capture) -> None:
    assert main(["--help"]) == 0
    text = capsys.readouterr().out
    assert all(f"  {verb}" in text for verb in VERBS)
    assert main([]) == 2
    assert main(["--version"]) == 0
    assert capsys.readouterr().out.endswith(f"manypose {manypose.__version__}\n")
    assert set(EXAMPLES) == set(VERBS)


_AT_WORK = """
import threading, time
import numpy as np
from pathlib import Path
import manypose.weights
from manypose.app.main import leave
from manypose.models.sessions import Wish, open_session
network = open_session(Path(manypose.weights.__file__).with_name("light_int8.onnx"), "onnx", Wish())
picture = np.zeros([d or 1 for d in network.inputs[0].shape], np.uint8)
started = threading.Event()
def work():
    while True:
        started.set()
        network.run(picture)
threading.Thread(target=work, daemon=True).start()
started.wait()
print("said", end="")
leave(3)
"""


def test_the_process_leaves_in_order_while_the_network_is_at_work() -> None:
    pytest.importorskip("onnxruntime")
    done = subprocess.run(
        [sys.executable, "-c", _AT_WORK], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout, done.stderr) == (3, "said", "")


@pytest.mark.parametrize("verb", ["run", "cameras", "doctor", "rescale", "export"])
def test_each_verb_helps_with_two_examples(quiet_home: Path, capsys: Capture, verb: str) -> None:
    assert main([verb, "--help"]) == 0
    text = capsys.readouterr().out
    assert "examples:" in text
    assert text.count(f"  manypose {verb}") >= 2
    assert "exit codes:" in text


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["rnu"], "did you mean run?"),
        (["cameras", "--jason"], "did you mean --json?"),
        (["cameras", "extra"], "unknown argument extra"),
        (["-z", "cameras"], "unknown option -z"),
    ],
)
def test_a_wrong_word_is_answered_with_the_nearest(
    quiet_home: Path, capsys: Capture, words: list[str], says: str
) -> None:
    assert main(words) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert says in err
    assert err.count("\n") == 1


def test_a_defect_exits_1_without_a_traceback(
    quiet_home: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object) -> int:
        raise ZeroDivisionError("this test divides by zero")

    monkeypatch.setattr(doctor, "run", broken)
    assert main(["doctor"]) == 1
    err = capsys.readouterr().err
    assert "defect: ZeroDivisionError" in err
    assert "Traceback" not in err
    log = next(Path(quiet_home.parent / "home").rglob("manypose.log")).read_text()
    assert "Traceback" in log
    assert main(["doctor", "-v"]) == 1
    assert "Traceback" in capsys.readouterr().err


def test_a_verb_that_is_not_installed_is_said(
    quiet_home: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(VERBS, "live", ("manypose.app.no_such_module", "x"))
    assert main(["live"]) == 2
    assert "not part of this installation" in capsys.readouterr().err


def test_cameras_answers_with_or_without_cameras(quiet_home: Path, capsys: Capture) -> None:
    assert main(["cameras", "--json"]) == 0
    assert isinstance(json.loads(capsys.readouterr().out), list)


def test_doctor_reports_each_check(quiet_home: Path, capsys: Capture) -> None:
    code = main(["doctor", "--quick", "--json"])
    report = json.loads(capsys.readouterr().out)
    assert code == report["exit_code"]
    assert code in (0, 3, 5)
    names = {c["name"] for c in report["checks"]}
    assert {"manypose", "numpy", "opencv", "av", "clock", "threads", "settings"} <= names
    assert all(c["remedy"] for c in report["checks"] if c["status"] == "warning")


def test_doctor_finds_a_wrong_settings_file(quiet_home: Path, capsys: Capture) -> None:
    Path("manypose.toml").write_text("[people]\nmaxx = 1\n")
    assert main(["doctor", "--quick"]) in (3, 5)
    assert "did you mean people.max" in capsys.readouterr().out


def test_doctor_codes() -> None:
    def check(status: str) -> doctor.Check:
        return doctor.Check("x", status, "y")

    assert doctor.exit_code([check("ok"), check("note")]) == 0
    assert doctor.exit_code([check("ok"), check("warning")]) == 3
    assert doctor.exit_code([check("warning"), check("missing")]) == 5


def test_doctor_tries_the_codecs() -> None:
    from manypose.app.doctor_video import codecs

    found = {c.name: c.status for c in codecs()}
    assert found["video H.264 in mp4"] == found["video H.264 in mkv"] == "ok"


def test_the_apt_line_names_packages() -> None:
    line = doctor_window.apt_line(["libxcb-icccm.so.4", "libgthread-2.0.so.0", "libglib-2.0.so.0"])
    assert line.endswith("libglib2.0-0 libxcb-icccm4")


@pytest.fixture
def finished(quiet_home: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(run_module, "load_engine", drawn_engine)
    write_clip(Path("clip.mp4"), 12, size=(480, 288))
    assert main(["run", "clip.mp4"]) == 0
    return Path("out/clip")


def test_rescale_scales_positions_about_the_camera(finished: Path, capsys: Capture) -> None:
    before = load_run(finished)
    assert main(["rescale", str(finished), "--scale", "1.25", "-o", "bigger"]) == 0
    after = load_run("bigger")
    np.testing.assert_allclose(after.kp3d, before.kp3d * 1.25, rtol=1e-5)
    np.testing.assert_allclose(after.root, before.root * 1.25, rtol=1e-5)
    np.testing.assert_array_equal(after.kp2d, before.kp2d)
    np.testing.assert_array_equal(after.state, before.state)
    assert after.meta["scale_source"] == "rescaled"
    assert after.meta["rescaled"] == {"0": 1.25, "1": 1.25}
    assert main(["rescale", str(finished), "--scale", "1.25", "-o", "bigger"]) == 5
    assert "another run" in capsys.readouterr().err


def test_rescale_to_a_height_measures_the_body(finished: Path) -> None:
    assert main(["rescale", str(finished), "--height", "1.9", "--id", "1"]) == 0
    after = load_run(finished)
    assert body_height_m(after, 1) == pytest.approx(1.9, abs=0.01)
    assert body_height_m(after, 0) != pytest.approx(1.9, abs=0.05)
    rows = Path(finished, "pose.csv").read_text().splitlines()
    assert len(rows) == 1 + 26 * len(after.id)


@pytest.mark.parametrize(
    "words", [["--height", "30"], ["--scale", "0"], ["--id", "77", "--scale", "2"], []]
)
def test_rescale_refuses_nonsense(finished: Path, words: list[str]) -> None:
    assert main(["rescale", str(finished), *words]) == 2


def test_python_api(finished: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(api, "load_engine", drawn_engine)
    results = list(manypose.run("clip.mp4"))
    assert main(["run", "clip.mp4", "-o", "as_it_came", "--smooth", "none"]) == 0
    stored = manypose.load("as_it_came/clip/pose.npz")
    assert [r.t for r in results] == pytest.approx(list(stored.t))
    for result, kept in zip(results, stored):
        assert [p.id for p in result.persons] == [p.id for p in kept.persons]
        for person, same in zip(result.persons, kept.persons):
            np.testing.assert_allclose(person.kp3d, same.kp3d, atol=1e-4)
            np.testing.assert_allclose(person.kp2d, same.kp2d, atol=1e-2)
    pipeline = manypose.Pipeline(api.settings(people_min_age=1, camera_fov_deg=70))
    result = pipeline.process(picture(0, 480, 288), t=0.0)
    assert len(result.persons) == 2
    assert result.frame.camera.source == "fov"
    with pytest.raises(ValueError, match="wanted uint8"):
        pipeline.process(np.zeros((4, 4, 3)), t=0.1)  # type: ignore[arg-type]
    with pytest.raises(SourceError):
        next(manypose.run("missing.mp4"))


@pytest.mark.parametrize("damage", ["cut", "noise", "pickle", "shape"])
def test_a_damaged_result_is_refused(finished: Path, damage: str) -> None:
    file = finished / "pose.npz"
    data = file.read_bytes()
    if damage == "cut":
        file.write_bytes(data[: len(data) // 2])
    elif damage == "noise":
        file.write_bytes(np.random.default_rng(0).bytes(500))
    else:
        with np.load(file) as archive:
            arrays = dict(archive)
        bad = np.array([{"a": 1}], object) if damage == "pickle" else arrays["kp3d"][:-1]
        np.savez(file, **{**arrays, "kp3d": bad})
    with pytest.raises(SourceError, match="not a whole result file"):
        load_run(file)


@pytest.mark.slow
def test_run_demo_without_a_display_says_where_things_are(quiet_home: Path) -> None:
    write_clip(Path("clip.mp4"), 3, size=(480, 288))
    code = (
        f"import sys; sys.path.insert(0, {str(Path(__file__).parent)!r}); import os\n"
        "for k in ('DISPLAY', 'WAYLAND_DISPLAY', 'QT_QPA_PLATFORM'): os.environ.pop(k, None)\n"
        "import drawn_engine; from manypose.app import pipeline\n"
        "pipeline.load_engine = drawn_engine.drawn_engine\n"
        "from manypose.app.demo import demo; sys.exit(demo(['clip.mp4']))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "overlay.mp4" in done.stderr
    assert Path("demo_out/clip/overlay.mp4").exists()
