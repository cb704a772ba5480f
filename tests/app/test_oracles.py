"""Exports against the programs that read them: Blender and OpenSim themselves, or what they said.

Both are too large for everybody: the tests that run them look for a Python that has bpy or opensim,
the one named by MANYPOSE_BPY_PYTHON and MANYPOSE_OPENSIM_PYTHON or this one, and skip without. The
fixtures that Blender and OpenSim once read stand in for them where only those are here.
"""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from export_case import HZ, read_bvh, store, y_up

from manypose.app.export import export_run
from manypose.app.exports import Options
from manypose.app.formats.reading import load_run
from manypose.pose.joints import INDEX, JOINTS

HERE = Path(__file__).resolve().parent
AS_IT_IS = Options(ground=False)


@pytest.fixture
def stored(tmp_path: Path) -> Path:
    """Return the folder of a run of two people."""
    return store(tmp_path / "clip")


@pytest.fixture
def fixtures(shared: Path) -> Path:
    """Return the folder of files that Blender and OpenSim have read."""
    return shared / "design" / "oracle"


def asked(module: str, file: Path) -> dict[str, Any]:
    """Return what the program behind a Python module sees in a file; skips without it."""
    python = os.environ.get(f"MANYPOSE_{module.upper()}_PYTHON")
    if python is None and importlib.util.find_spec(module) is None:
        pytest.skip(f"no {module} here")
    script = {"bpy": "oracle_blender.py", "opensim": "oracle_opensim.py"}[module]
    done = subprocess.run(
        [python or sys.executable, str(HERE / script), str(file)],
        capture_output=True, text=True, check=False, timeout=600,
    )  # fmt: skip
    told = [x for x in done.stdout.splitlines() if x.startswith("ORACLE ")]
    assert told, done.stderr[-2000:]
    answer: dict[str, Any] = json.loads(told[-1].removeprefix("ORACLE "))
    return answer


def read_trc(text: str) -> tuple[list[str], np.ndarray, np.ndarray]:
    """Return names, times and positions (F, M, 3) in metres; as strict as OpenSim."""
    lines = text.split("\n")
    assert lines[0].startswith("PathFileType\t4\t(X/Y/Z)\t")
    names_of, values = lines[1].split("\t"), lines[2].split("\t")
    facts = dict(zip(names_of, values, strict=True))
    names = [n for n in lines[3].split("\t")[2:] if n]
    axes = [a for a in lines[4].split("\t") if a]
    assert axes == [f"{a}{i}" for i in range(1, len(names) + 1) for a in "XYZ"]
    assert lines[5] == ""
    rows = [line.removesuffix("\t").split("\t") for line in lines[6:] if line]
    assert int(facts["NumFrames"]) == len(rows)
    assert int(facts["NumMarkers"]) == len(names)
    assert [int(r[0]) for r in rows] == list(range(1, len(rows) + 1))
    assert all(len(r) == 2 + 3 * len(names) for r in rows)
    cells = np.array([[float(c) if c else np.nan for c in r[2:]] for r in rows])
    scale = {"m": 1.0, "mm": 1e-3}[facts["Units"]]
    times = np.array([float(r[1]) for r in rows])
    np.testing.assert_allclose(np.diff(times), 1 / float(facts["DataRate"]), atol=2e-6)
    return names, times, cells.reshape(len(rows), len(names), 3) * scale


def head_of_mot(text: str) -> list[str]:
    """Return the keys of a motion file's header in their order."""
    return [line.partition("=")[0] for line in text.split("endheader")[0].split("\n")[1:] if line]


def test_our_reader_of_bvh_sees_what_blender_saw(fixtures: Path) -> None:
    found, step = read_bvh((fixtures / "six_joints.bvh").read_text())
    told = json.loads((fixtures / "six_joints_blender.json").read_text())
    assert step == pytest.approx(1 / told["fps"], abs=1e-7)
    for k, name in enumerate(told["joints"]):
        wanted = np.array(told["positions"])[:, k]
        np.testing.assert_allclose(found[name], wanted, atol=1e-5)


def test_our_bvh_is_written_as_the_one_blender_read(fixtures: Path, stored: Path) -> None:
    export_run(stored, ["bvh"], options=AS_IT_IS)
    ours, theirs = (stored / "person_3.bvh").read_text(), (fixtures / "six_joints.bvh").read_text()

    def shape(text: str) -> list[str]:
        """Return the lines' first words, and whole channel lists."""
        lines = [line.strip() for line in text.split("MOTION")[0].split("\n")]
        return [x if x.startswith("CHANNELS") else x.split(" ")[0] for x in lines if x]

    assert set(shape(ours)) == set(shape(theirs))
    assert [x.split(":")[0] for x in ours.split("MOTION\n")[1].split("\n")[:2]] == [
        x.split(":")[0] for x in theirs.split("MOTION\n")[1].split("\n")[:2]
    ]


def test_our_trc_and_mot_are_read_like_those_opensim_read(fixtures: Path, stored: Path) -> None:
    theirs, _, places = read_trc((fixtures / "six_joints.trc").read_text())
    told = json.loads((fixtures / "six_joints_blender.json").read_text())
    assert theirs == told["joints"]
    wanted = np.array(told["positions"])
    wanted[5, 2] = np.nan  # empty cells
    np.testing.assert_allclose(places, wanted, atol=1e-5)
    export_run(stored, ["trc", "mot"], options=AS_IT_IS)
    names, times, ours = read_trc((stored / "person_8.trc").read_text())
    assert names == list(JOINTS)
    run = load_run(stored)
    seen = np.round(times * HZ).astype(int)
    here = run.row_frame[run.person(8)]
    np.testing.assert_allclose(ours[np.searchsorted(seen, here)], y_up(run, 8), atol=1e-5)
    assert np.isnan(ours[~np.isin(seen, here)]).all()
    mot = (fixtures / "two_angles.mot").read_text()
    assert head_of_mot((stored / "person_3.mot").read_text()) == head_of_mot(mot)


@pytest.mark.slow
def test_blender_imports_bvh(stored: Path) -> None:
    export_run(stored, ["bvh"], options=AS_IT_IS)
    seen = asked("bpy", stored / "person_3.bvh")
    want, places = y_up(load_run(stored), 3), np.array(seen["positions"])
    assert seen["fps"] == pytest.approx(HZ)
    assert len(places) == 90
    for name in ("pelvis", "neck", "l_wrist", "r_ankle", "head"):
        found = places[:, seen["names"].index(name)]
        np.testing.assert_allclose(found, want[:, INDEX[name]], atol=3e-5)


@pytest.mark.slow
def test_blender_imports_glb(stored: Path) -> None:
    export_run(stored, ["glb"], options=AS_IT_IS)
    seen = asked("bpy", stored / "people.glb")
    want, places = y_up(load_run(stored), 3), np.array(seen["positions"])
    for name in ("pelvis", "neck", "l_wrist", "r_ankle"):
        found = places[:90, seen["names"].index(f"{name}.3")]
        np.testing.assert_allclose(found, want[:, INDEX[name]], atol=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("units", ["m", "mm"])
def test_opensim_reads_trc(stored: Path, units: str) -> None:
    export_run(stored, ["trc"], options=Options(ground=False, units=units))
    seen = asked("opensim", stored / "person_8.trc")
    assert seen["names"] == list(JOINTS)
    assert seen["meta"]["Units"] == units
    places = np.array(seen["rows"], float).reshape(80, len(JOINTS), 3)
    places /= 1000 if units == "mm" else 1
    np.testing.assert_allclose(places[:20], y_up(load_run(stored), 8)[:20], atol=1e-5)
    assert np.isnan(places[20:50]).all()


@pytest.mark.slow
def test_opensim_reads_mot(stored: Path) -> None:
    export_run(stored, ["mot"], options=AS_IT_IS)
    seen = asked("opensim", stored / "person_3.mot")
    assert seen["meta"]["inDegrees"] == "yes"
    bend = np.array(seen["rows"])[:, seen["names"].index("r_elbow_flexion")]
    np.testing.assert_allclose(bend, np.degrees(0.8), atol=0.1)
    np.testing.assert_allclose(seen["times"], np.arange(90) / HZ, atol=1e-5)
