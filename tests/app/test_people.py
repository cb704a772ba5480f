"""Identities of a finished run changed: every file says the same, nonsense is refused."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from drawn_engine import drawn_engine
from made_clips import write_clip

from manypose.app import run as run_module
from manypose.app.formats.reading import Run, load_run
from manypose.app.main import main
from manypose.app.people import edited, parse

Capture = pytest.CaptureFixture[str]
RUN = "out/clip"


@pytest.fixture
def finished(quiet_home: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """A run of 12 frames of persons 0 and 1, with two exports and an overlay."""
    monkeypatch.setattr(run_module, "load_engine", drawn_engine)
    write_clip(Path("clip.mp4"), 12, size=(480, 288))
    assert main(["run", "clip.mp4", "--video", "--export", "bvh,motchallenge"]) == 0
    assert main(["export", RUN, "--to", "trc", "--rate", "60"]) == 0
    return load_run(RUN)


def everywhere() -> dict[str, set[int]]:
    """Return the identities that each file of the run names."""
    folder = Path(RUN)
    lines = [json.loads(x) for x in (folder / "pose.jsonl").read_text().splitlines()]
    events = [json.loads(x) for x in (folder / "events.jsonl").read_text().splitlines()]
    table = (folder / "pose.csv").read_text().splitlines()[1:]
    challenge = (folder / "motchallenge.txt").read_text().splitlines()
    return {
        "npz": {int(i) for i in load_run(folder).id},
        "jsonl": {p["id"] for line in lines for p in line["persons"]},
        "csv": {int(row.split(",")[2]) for row in table},
        "coco": {r["track_id"] for r in json.loads((folder / "coco.json").read_text())},
        "events": {e["id"] for e in events if "id" in e},
        "motchallenge": {int(row.split(",")[1]) for row in challenge},
        "bvh": {int(p.stem.partition("_")[2]) for p in folder.glob("person_*.bvh")},
        "trc": {int(p.stem.partition("_")[2]) for p in folder.glob("person_*.trc")},
    }


def test_a_new_number_is_in_every_file(finished: Run, capsys: Capture) -> None:
    before = Path(RUN, "overlay.mp4").read_bytes()
    assert main(["people", RUN, "--edit-ids", "1=40"]) == 0
    assert {name: {0, 40} for name in everywhere()} == everywhere()
    after = load_run(RUN)
    np.testing.assert_array_equal(after.kp3d, finished.kp3d)
    assert after.quat is not None
    np.testing.assert_array_equal(after.quat, finished.quat)
    assert after.meta["edited_ids"] == ["1=40"]
    assert after.meta["status"] == "ok"
    trc = Path(RUN, "person_40.trc").read_text().splitlines()[2]
    assert trc.startswith("60")  # made anew as the last time
    assert Path(RUN, "overlay.mp4").read_bytes() != before  # another number, another colour
    assert "40" in capsys.readouterr().out
    # the run is still the complete one: nothing is computed again
    assert main(["run", "clip.mp4", "--video", "--resume"]) == 0
    assert {int(i) for i in load_run(RUN).id} == {0, 40}


def test_a_split_counts_from_its_second_and_a_ghost_leaves(finished: Run) -> None:
    assert main(["people", RUN, "--edit-ids", "0@0.2=7,1=", "-o", "other"]) == 0
    other = load_run("other")
    late = other.t[other.row_frame] >= 0.2
    assert set(other.id[late]) == {7}
    assert set(other.id[~late]) == {0}
    assert list(other.n) == [n // 2 for n in finished.n]
    assert other.meta["summary"]["ids"] == 2
    assert other.meta["summary"]["people"] == 1
    np.testing.assert_array_equal(load_run(RUN).id, finished.id)  # the first stays as it was


def test_two_parts_join_and_two_people_swap(finished: Run) -> None:
    split = edited(finished, parse("1@0.2=9"))
    assert set(split.id) == {0, 1, 9}
    np.testing.assert_array_equal(edited(split, parse("9=1")).id, finished.id)
    swapped = edited(finished, parse("0@0.1=1,1@0.1=0"))
    late = finished.t[finished.row_frame] >= 0.1
    np.testing.assert_array_equal(swapped.id[late], 1 - finished.id[late])
    np.testing.assert_array_equal(swapped.id[~late], finished.id[~late])


@pytest.mark.parametrize(
    ("edits", "says"),
    [
        ("5=1", "nobody has the number 5"),
        ("0=1", "0 and 1 are seen together in 12 frames, first at 0.000 s"),
        ("1=1", "changes nothing"),
        ("a=b", "write 5=2"),
        ("1:2", "write 5=2"),
        ("1=-2", "write 5=2"),
        ("1@99=2", "in view from 0.000 to"),
        ("1=2,1=3", "two edits of 1"),
        (",", "no edit"),
    ],
)
def test_nonsense_is_refused_in_a_line(
    finished: Run, capsys: Capture, edits: str, says: str
) -> None:
    before = Path(RUN, "pose.npz").read_bytes()
    capsys.readouterr()
    assert main(["people", RUN, "--edit-ids", edits]) == 2
    err = capsys.readouterr().err
    assert says in err
    assert err.count("\n") == 1
    assert Path(RUN, "pose.npz").read_bytes() == before


def test_without_edits_it_lists_who_is_there(finished: Run, capsys: Capture) -> None:
    capsys.readouterr()
    assert main(["people", RUN, "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)
    assert [(r["id"], r["frames"], r["gaps"]) for r in rows] == [(0, 12, 0), (1, 12, 0)]
    assert 1.4 < rows[0]["height_m"] < 2.0
    assert main(["people", RUN, "-o", "x"]) == 2
    assert main(["people", "nowhere"]) == 4


def test_a_rescaled_run_has_rescaled_exports(finished: Run) -> None:
    before = Path(RUN, "person_0.bvh").read_text()
    assert main(["rescale", RUN, "--scale", "1.1"]) == 0
    assert Path(RUN, "person_0.bvh").read_text() != before


def test_overwriting_leaves_no_export_of_the_run_before(finished: Run) -> None:
    assert main(["people", RUN, "--edit-ids", "1=40"]) == 0
    assert main(["run", "clip.mp4", "--overwrite", "--format", "npz", "--export", "bvh"]) == 0
    assert sorted(p.name for p in Path(RUN).glob("person_*")) == ["person_0.bvh", "person_1.bvh"]
