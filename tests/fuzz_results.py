"""Files of results and of truth for `tests.fuzz`: what writes a whole one, and what reads it."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np

from tests.fuzz_inputs import picture, still, text, video


def run_file(name: str) -> Callable[[Path], None]:
    """Return what writes a file of a run."""

    def write(path: Path) -> None:
        from manypose.app.formats import WRITERS
        from manypose.calib.camera import Camera
        from manypose.pose.joints import JOINTS, JOINTS_2D
        from manypose.pose.records import Frame, FrameResult, TrackedPerson

        person = TrackedPerson(
            3, 0.9, np.full((len(JOINTS_2D), 2), 20.0), np.full(len(JOINTS_2D), 0.5),
            np.full((len(JOINTS), 3), 3.0), np.ones(len(JOINTS), np.uint8), np.zeros(4),
        )  # fmt: skip
        with WRITERS[name](path.parent, {"schema": "manypose/1"}) as writer:
            for k in range(4):
                frame = Frame(picture(k), k / 30, k, Camera.from_fov(64, 48))
                writer.write(FrameResult(frame, (person,) * (k % 2)))

    return write


def journal(path: Path) -> None:
    """Write a journal with two frames."""
    from manypose.app.journal import Journal
    from manypose.calib.camera import Camera
    from manypose.pose.joints import JOINTS, JOINTS_2D
    from manypose.pose.records import Detections, Frame, Person2D, Person3D

    seen = Person2D(np.full((len(JOINTS_2D), 2), 9.0), np.full(len(JOINTS_2D), 0.5), 0.5)
    body = Person3D(
        seen, np.zeros((len(JOINTS), 3)), np.full(len(JOINTS), 0.1), np.array([0, 0, 3.0]), 0.1
    )
    kept = Journal(path.parent, "key", resume=False)
    for k in range(2):
        kept.keep(Detections(Frame(picture(k), k / 30, k, Camera.from_fov(64, 48)), (body,), {}))
    kept.close(remove=False)


def read_journal(path: Path) -> None:
    """Go on from a journal."""
    from manypose.app.journal import Journal
    from manypose.calib.camera import Camera
    from manypose.pose.records import Frame

    kept = Journal(path.parent, "key", resume=True)
    try:
        for k in range(3):
            found = kept.recall(Frame(picture(k), k / 30, k, Camera.from_fov(64, 48)))
            if found is not None and len(found.people) > 1000:
                raise AssertionError("more people than there were")
    finally:
        kept.close(remove=False)


def read_run(path: Path) -> None:
    """Read a run."""
    from manypose.app.formats.reading import load_run

    list(load_run(path))


def run_of(name: str) -> Callable[[Path], None]:
    """Return what writes a run with turned bodies and the file `name` of it."""

    def write(path: Path) -> None:
        from manypose.app.formats import WRITERS
        from manypose.app.meta import camera_facts
        from manypose.calib.camera import Camera
        from manypose.pose.joints import JOINTS, JOINTS_2D
        from manypose.pose.records import Frame, FrameResult, TrackedPerson

        lens = Camera.from_fov(64, 48)
        turns = np.tile([0.0, 0, 0, 1], (len(JOINTS), 1))
        person = TrackedPerson(
            3, 0.9, np.full((len(JOINTS_2D), 2), 20.0), np.full(len(JOINTS_2D), 0.5),
            np.full((len(JOINTS), 3), 3.0), np.ones(len(JOINTS), np.uint8), np.zeros(4), turns,
        )  # fmt: skip
        source = {"address": "a.mkv", "kind": "video", "start_s": 0.0, "rotation_deg": 0, "fps": 30}
        meta = {"schema": "manypose/1", "source": source, "camera": camera_facts(lens)}
        with WRITERS["npz"](path.parent, meta) as writer:
            for k in range(4):
                writer.write(FrameResult(Frame(picture(k), k / 30, k, lens), (person,)))
        video("libx264")(path.parent / "a.mkv")
        (path.parent / "meta.json").write_text(json.dumps(meta), "utf-8")
        assert (path.parent / name).is_file()

    return write


def replay(path: Path) -> None:
    """Show a run again: its people, its pictures back and forth."""
    from manypose.app.formats.reading import load_run
    from manypose.app.replay import Replay, pictures_of

    run = load_run(path.parent)
    pictures = pictures_of(run)
    if pictures is not None:
        for k in (0, 3, 1):
            pictures.at(float(run.t[min(k, len(run) - 1)]) if len(run) else 0.0, k)
        pictures.close()
    shown = Replay(run)
    shown.views()
    shown.details()
    shown.close()


TRUTH = {
    "images": [{"id": 1, "width": 64, "height": 48, "file_name": "1.jpg"}],
    "categories": [{"id": 1, "name": "person"}],
    "annotations": [
        {
            "id": 1, "image_id": 1, "category_id": 1, "iscrowd": 0, "area": 900.0,
            "bbox": [5.0, 5, 30, 30], "num_keypoints": 17, "keypoints": [10.0, 12.0, 2] * 17,
        }
    ],
}  # fmt: skip
FOUND = [{"image_id": 1, "category_id": 1, "keypoints": [10.0, 12.0, 0.9] * 17, "score": 0.9}]
LABELLED = {
    "units": "mm",
    "joint_names": ["pelvis", "neck", "left_knee"],
    "images": [
        {
            "file": "1.jpg", "width": 64, "height": 48, "K": [50, 50, 32, 24],
            "people": [
                {"joints3d": [[0, 0, 3000]] * 3, "joints2d": [[30, 20]] * 3, "valid": [1] * 3,
                 "in_image": [1] * 3}
            ],
        }
    ],
}  # fmt: skip


def score(path: Path) -> None:
    """Score results against COCO's labels; either of them is the mutant."""
    from manypose.app.evaluate import evaluate_coco

    for name, whole in (("found.json", FOUND), ("truth.json", TRUTH)):
        if not (path.parent / name).exists():
            (path.parent / name).write_text(json.dumps(whole), "utf-8")
    evaluate_coco(path.parent / "found.json", path.parent / "truth.json")


def read_labelled(path: Path) -> None:
    """Read labels of pictures in 3D."""
    from manypose.app.truth import read_truth3d

    read_truth3d(path.parent)


def sequence(path: Path) -> None:
    """Write the truth of a sequence."""
    from manypose.pose.joints import JOINTS, JOINTS_2D

    np.savez(
        path, joints_m=np.ones((3, 2, len(JOINTS), 3)), seen=np.ones((3, 2, len(JOINTS_2D))),
        joints_px=np.ones((3, 2, len(JOINTS_2D), 2)), K=np.diag([50.0, 50, 1]), fps=np.array(30.0),
    )  # fmt: skip


def read_sequence(path: Path) -> None:
    """Read the truth of a sequence."""
    from manypose.app.motion import read_motion

    read_motion(path).sequence(64)


def pack(path: Path) -> None:
    """Write a pack of training photos."""
    from manypose.models.train.packs import photo, write_pack
    from manypose.pose.joints import JOINTS_2D

    still(path.with_name("a.jpg"))
    data = path.with_name("a.jpg").read_bytes()
    write_pack([photo(data, "a", "b", np.ones((1, len(JOINTS_2D), 3)))], path.parent)


def read_pack(path: Path) -> None:
    """Read a pack of training photos."""
    from manypose.models.train import packs

    list(packs.read_pack(path.parent))


# Reader -> (file name, what writes a whole one, what reads it).
RESULTS: dict[str, tuple[str, Callable[[Path], None], Callable[[Path], None]]] = {
    "pose npz": ("pose.npz", run_file("npz"), read_run),
    "pose jsonl": ("pose.jsonl", run_file("jsonl"), read_run),
    "journal": ("detections.jsonl.part", journal, read_journal),
    "rotations": ("rotations.npz", run_of("rotations.npz"), replay),
    "meta": ("meta.json", run_of("meta.json"), replay),
    "film": ("a.mkv", run_of("a.mkv"), replay),
    "coco results": ("found.json", text(json.dumps(FOUND)), score),
    "coco labels": ("truth.json", text(json.dumps(TRUTH)), score),
    "3D labels": ("annotations.json", text(json.dumps(LABELLED)), read_labelled),
    "sequence": ("truth.npz", sequence, read_sequence),
    "pack": ("pack.json", pack, read_pack),
}
