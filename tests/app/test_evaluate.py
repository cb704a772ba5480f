from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy.io import savemat

from manypose.app import evaluate
from manypose.app.main import main
from manypose.errors import SourceError
from manypose.pose.joints import INDEX, JOINTS, JOINTS_2D, PARENT, ROOT, SHOWN_BY

F = 1500.0
WIDTH = 1920.0
K = np.array([[F, 0, 960], [0, F, 540], [0, 0, 1.0]])


def pose(seed: int, x: float, z: float) -> np.ndarray:
    """A random body (21, 3) in metres, standing at x and z."""
    return np.random.default_rng(seed).normal(0, 0.3, (21, 3)) + np.array([x, 0, z])


def project(points_m: np.ndarray) -> np.ndarray:
    px = points_m @ K.T
    return px[..., :2] / px[..., 2:]


def marked(people_m: np.ndarray) -> np.ndarray:
    """Bodies (..., 21, 3) with the neck where 2D joints have it: between the shoulders."""
    out = people_m.copy()
    shoulders = people_m[..., [INDEX["l_shoulder"], INDEX["r_shoulder"]], :]
    out[..., INDEX["neck"], :] = shoulders.mean(-2)
    return out


def write_run(
    folder: Path, frames: list[list[np.ndarray]], files: list[str] | None, scale: float = 1
) -> None:
    """A run of these people (21, 3) m; the 2D joints are their projection."""
    rows = [p for f in frames for p in f]
    kp2d = np.zeros((len(rows), len(JOINTS_2D), 3), np.float32)
    for n, person in enumerate(map(marked, rows)):
        for joint, place in enumerate(SHOWN_BY):
            if place >= 0 and np.isfinite(person[joint]).all():
                kp2d[n, place] = (*project(person[joint]) * scale, 1)
    points = np.array(rows, np.float32).reshape(-1, 21, 3)
    meta: dict[str, Any] = {
        "camera": {"K": (np.diag([scale, scale, 1]) @ K).tolist(), "width": WIDTH * scale,
                   "source": "calibrated"}
    }  # fmt: skip
    if files is not None:
        meta["files"] = files
    folder.mkdir(parents=True)
    np.savez(
        folder / "pose.npz", t=np.arange(len(frames)) / 30, frame=np.arange(len(frames)),
        n=np.array([len(f) for f in frames], np.int32),
        row_frame=np.repeat(np.arange(len(frames)), [len(f) for f in frames]).astype(np.int32),
        id=np.arange(len(rows), dtype=np.int32), score=np.ones(len(rows), np.float32),
        box=np.zeros((len(rows), 4), np.float32), kp2d=kp2d, kp3d=points,
        state=np.ones((len(rows), 21), np.uint8), root=points[:, ROOT],
        joint_names=np.array(JOINTS), kp2d_names=np.array(JOINTS_2D), parents=np.array(PARENT),
        meta_json=np.array(json.dumps(meta)),
    )  # fmt: skip


def write_truth3d(folder: Path, people: list[list[np.ndarray]], **more: Any) -> None:
    """Truth without spine, head, hands and feet, names as other sets spell them."""
    long = [n.replace("l_", "left_").replace("r_", "right_") for n in JOINTS[:15]]
    images = []
    for n, frame in enumerate(people):
        images.append({
            "file": f"images/{n:03}.webp", "width": WIDTH, "height": 1080, "K": [F, F, 960, 540],
            "ignore_boxes": more.get("ignore", []),
            "people": [{
                "id": i, "joints3d": (1000 * p[:15]).tolist(), "joints2d": project(p[:15]).tolist(),
                "valid": [1] * 15, "in_image": [1] * 15,
            } for i, p in enumerate(frame)],
        })  # fmt: skip
    folder.mkdir(exist_ok=True)
    document = {"units": more.get("units", "mm"), "joint_names": long, "images": images}
    (folder / "annotations.json").write_text(json.dumps(document))


def test_a_perfect_run_has_no_error(tmp_path: Path) -> None:
    people = [[pose(1, -1, 5), pose(2, 1, 6)], [pose(3, 0, 4)]]
    write_truth3d(tmp_path / "set", people)
    write_run(tmp_path / "out", people, ["000.webp", "001.webp"])
    figures = evaluate.evaluate_truth3d(tmp_path / "set", tmp_path / "out")["sets"]["set"]
    assert (figures["people"], figures["found"], figures["surplus_people"]) == (3, 3, 0)
    for key in ("mpjpe_mm", "pa_mpjpe_mm", "n_mpjpe_mm", "root_mm", "root_true_camera_mm"):
        assert figures[key] == pytest.approx(0, abs=1e-2)
    for key in ("pck_all", "pck_abs_all", "pck_true_bones_all", "root_within_250mm_all"):
        assert figures[key] == 1
    assert figures["auc_all"] == pytest.approx(40 / 41)
    assert figures["depth_order"] == 1
    assert set(figures["joints_mm"]) == set(JOINTS[:15]) - {"pelvis"}


def test_known_errors_come_out(tmp_path: Path) -> None:
    truth = [[pose(1, -1, 5), pose(2, 1, 6)]]
    write_truth3d(tmp_path / "set", truth)
    farther = truth[0][0] * 1.1  # the same rays, 10 % too big and too far
    bent = truth[0][1].copy()
    bent[INDEX["l_wrist"]] += (0, 0, 0.2)
    ghost = pose(9, 3, 6)
    write_run(tmp_path / "out", [[ghost, bent, farther]], ["000.webp"])
    figures = evaluate.evaluate_truth3d(tmp_path / "set", tmp_path / "out")["sets"]["set"]
    assert figures["found"] == 2
    assert figures["surplus_people"] == 1
    assert figures["joints_mm"]["l_wrist"] > 95
    wrong = np.linalg.norm(0.1 * (truth[0][0] - truth[0][0][ROOT])[:14], axis=1)
    assert figures["mpjpe_mm"] == pytest.approx(1000 * (wrong.sum() + 0.2) / 28, rel=1e-3)
    assert figures["n_mpjpe_mm"] < figures["mpjpe_mm"]
    assert figures["pck_matched"] == pytest.approx(1 - (1 + (wrong >= 0.15).sum()) / 28)
    assert figures["root_mm"] == pytest.approx(50 * np.linalg.norm(truth[0][0][ROOT]), rel=1e-3)
    # bone lengths are given: only the bent wrist is left, and it is nearer now
    assert figures["pck_true_bones_all"] >= figures["pck_matched"]


def test_all_counts_the_unfound_and_matched_leaves_them_out(tmp_path: Path) -> None:
    truth = [[pose(1, -1, 5), pose(2, 1, 6)], [pose(3, 0, 5), pose(4, 2, 7)]]
    write_truth3d(tmp_path / "set", truth)
    write_run(tmp_path / "out", [[truth[0][0]]], ["000.webp"])
    figures = evaluate.evaluate_truth3d(tmp_path / "set", tmp_path / "out")["sets"]["set"]
    assert figures["frames_missing"] == 1
    assert (figures["people"], figures["found_share"]) == (4, 0.25)
    assert (figures["pck_all"], figures["pck_matched"]) == (0.25, 1)


def test_people_in_a_region_to_ignore_are_no_surplus(tmp_path: Path) -> None:
    truth = [[pose(1, -1, 5)]]
    ghost = pose(2, 1, 6)
    x, y = project(ghost[:15])[1:].mean(0)
    write_truth3d(tmp_path / "set", truth, ignore=[[x - 400, y - 400, x + 400, y + 400]])
    write_run(tmp_path / "out", [[truth[0][0], ghost]], ["000.webp"])
    figures = evaluate.evaluate_truth3d(tmp_path / "set", tmp_path / "out")["sets"]["set"]
    assert figures["surplus_people"] == 0


def test_a_guessed_focal_length_is_told_apart_from_a_wrong_depth(tmp_path: Path) -> None:
    truth = [[pose(1, -1, 5)]]
    write_truth3d(tmp_path / "set", truth)
    near = truth[0][0].copy()
    near[:, 2] += truth[0][0][ROOT, 2] * (0.8 - 1)
    write_run(tmp_path / "out", [[near]], ["000.webp"])
    file = tmp_path / "out" / "meta.json"
    guess = np.diag([0.8, 0.8, 1]) @ K
    guess[:2, 2] = K[:2, 2]
    file.write_text(json.dumps({"camera": {"K": guess.tolist(), "width": WIDTH}}))
    # the joints in the picture are where they were
    with np.load(tmp_path / "out" / "pose.npz") as z:
        data = dict(z)
    right = truth[0][0]
    for joint, place in enumerate(SHOWN_BY):
        if place >= 0:
            data["kp2d"][0, place, :2] = project(right[joint])
    np.savez(tmp_path / "out" / "pose.npz", **data)
    figures = evaluate.evaluate_truth3d(tmp_path / "set", tmp_path / "out")["sets"]["set"]
    assert figures["root_depth_mm"] == pytest.approx(200 * right[ROOT, 2], rel=1e-3)
    assert figures["root_true_camera_mm"] == pytest.approx(0, abs=0.1)


def cell(person: np.ndarray | None, size: float) -> dict[str, Any]:
    points = np.zeros((21, 3)) if person is None else person
    px = np.zeros((21, 2)) if person is None else project(person)
    return {
        "annot2": px[:17].T, "annot3": 1000 * size * points[:17].T,
        "univ_annot3": 1000 * points[:17].T,
        "isValidFrame": np.array([[person is not None]], np.uint8),
    }  # fmt: skip


def write_mupots(folder: Path, people: list[list[np.ndarray | None]]) -> None:
    cells = np.empty((len(people), 2), object)
    hidden = np.empty((len(people), 2), object)
    for n, frame in enumerate(people):
        for p in range(2):
            cells[n, p] = cell(frame[p], size=1.2)
            hidden[n, p] = np.zeros((1, 17))
            hidden[n, p][0, INDEX["l_wrist"]] = 1
    folder.mkdir(parents=True)
    savemat(folder / "annot.mat", {"annotations": cells})
    savemat(folder / "occlusion.mat", {"occlusion_labels": hidden})


def test_mupots_in_its_published_layout(tmp_path: Path) -> None:
    people: list[list[Any]] = [[pose(1, -1, 5), pose(2, 1, 6)], [pose(3, 0, 5), None]]
    write_mupots(tmp_path / "MuPoTS" / "TS6", people)
    write_mupots(tmp_path / "MuPoTS" / "TS7", people)
    write_mupots(tmp_path / "MuPoTS" / "TS8", people)
    shifted = people[0][1].copy()
    shifted[INDEX["l_wrist"]] += (0, 0, 0.4)
    names = ["img_000000.jpg", "img_000001.jpg"]
    # half the size of the pictures: the 40 px follow
    write_run(tmp_path / "out" / "TS6", [[people[0][0], shifted], [people[1][0]]], names, scale=0.5)
    write_run(tmp_path / "out" / "TS7", [[people[0][0]]], None)
    report = evaluate.evaluate_sequences("mupots", tmp_path / "MuPoTS", tmp_path / "out")
    assert report["missing"] == ["TS8"]
    six, seven = report["sets"]["TS6"], report["sets"]["TS7"]
    assert six["people"] == 3
    assert six["pck_all"] == pytest.approx(41 / 42)
    assert six["pck_occluded_matched"] == pytest.approx(2 / 3)
    assert six["pck_visible_matched"] == 1
    assert seven["pck_all"] == pytest.approx(1 / 3)
    assert seven["pck_matched"] == 1
    assert report["mean"]["pck_all"] == pytest.approx((41 / 42 + 1 / 3) / 2)
    assert report["mean"]["people"] == 6
    assert report["pooled"]["pck_all"] == pytest.approx((41 + 14) / 84)
    metric = evaluate.evaluate_sequences("mupots", tmp_path / "MuPoTS", tmp_path / "out", False)
    assert metric["sets"]["TS7"]["root_mm"] == pytest.approx(
        200 * np.linalg.norm(people[0][0][ROOT]), rel=1e-3
    )


@pytest.mark.parametrize("matlab_order", [True, False])
def test_mpi3dhp_in_its_published_layout(tmp_path: Path, matlab_order: bool) -> None:
    people = [pose(n, 0, 4 + n) for n in range(3)]
    points = np.array([[1000 * p[:17]] for p in people])  # (N, 1, 17, 3), as HDF5 shows it
    pixels = np.array([[project(p[:17])] for p in people])
    if matlab_order:
        points, pixels = points.transpose(), pixels.transpose()
    folder = tmp_path / "mpi" / "TS5"
    folder.mkdir(parents=True)
    savemat(folder / "annot_data.mat", {
        "annot2": pixels, "annot3": points, "univ_annot3": points,
        "valid_frame": np.array([[1, 0, 1]]),
    })  # fmt: skip
    names = [f"img_{n + 1:06}.jpg" for n in range(3)]
    write_run(tmp_path / "out" / "TS5" / "imageSequence", [[p] for p in people], names)
    report = evaluate.evaluate_sequences("mpi3dhp", tmp_path / "mpi", tmp_path / "out")
    figures = report["sets"]["TS5"]
    assert (figures["people"], figures["frames"], figures["pck_all"]) == (2, 2, 1)
    assert figures["mpjpe_mm"] == pytest.approx(0, abs=1e-2)


def write_motion(file: Path, people: np.ndarray, fps: float = 30) -> None:
    """Truth of moving people (T, P, 21, 3) m."""
    shape = (*people.shape[:2], len(JOINTS_2D))
    px, seen = np.full((*shape, 2), np.nan), np.zeros(shape, np.uint8)
    for joint, place in enumerate(SHOWN_BY):
        if place >= 0:
            px[:, :, place], seen[:, :, place] = project(marked(people)[:, :, joint]), 1
    K_file = K.copy()
    K_file[0, 2] = (WIDTH - 1) / 2
    np.savez(file, joints_m=people, joints_px=px, seen=seen, K=K_file, fps=np.array(fps))


def test_a_video_with_truth_tells_identity_and_motion(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    still = np.stack([pose(1, -1, 5), pose(2, 1, 6)])
    people = np.repeat(still[None], 12, axis=0)
    write_motion(tmp_path / "clip.npz", people)
    shaken = people.copy()
    shaken[::2, :, :, 0] += 0.01  # to and fro by 10 mm: second differences of 20 mm
    write_run(tmp_path / "out", [list(f) for f in shaken], None)
    with np.load(tmp_path / "out" / "pose.npz") as z:
        data = dict(z)
    ids = np.tile([4, 9], 12).reshape(12, 2)
    ids[6:] = ids[6:, ::-1]  # the two exchange their names half-way
    np.savez(tmp_path / "out" / "pose.npz", **(data | {"id": ids.ravel().astype(np.int32)}))
    report = evaluate.evaluate_sequence(tmp_path / "clip.npz", tmp_path / "out")
    motion = report["motion"]
    assert motion["jitter_at_rest_mm"] == pytest.approx(20, rel=1e-3)
    assert motion["acceleration_error"] == pytest.approx(0, abs=1e-2)  # the whole body shakes
    assert motion["foot_slide_mm_s"] == pytest.approx(300, rel=1e-3)
    assert motion["switches"] == 2
    assert motion["IDF1"] == pytest.approx(0.5)
    assert motion["MOTA"] == pytest.approx(1 - 2 / 24)
    assert motion["bone_length_spread"] > 0.01  # each name is two bodies
    assert motion["reprojection_px"] == pytest.approx(0, abs=0.1)
    assert report["sets"]["clip"]["found_share"] == 1
    assert report["sets"]["clip"]["mpjpe_mm"] == pytest.approx(0, abs=1e-2)
    assert main(["eval", "sequence", str(tmp_path / "clip.npz"), str(tmp_path / "out")]) == 0
    assert "HOTA" in capsys.readouterr().out
    (tmp_path / "broken.npz").write_bytes(b"PK")
    with pytest.raises(SourceError, match=r"broken\.npz"):
        evaluate.evaluate_sequence(tmp_path / "broken.npz", tmp_path / "out")


def test_a_run_that_found_nobody_scores_zero(tmp_path: Path) -> None:
    people = np.repeat(np.stack([pose(1, -1, 5)])[None], 4, axis=0)
    write_motion(tmp_path / "clip.npz", people)
    write_run(tmp_path / "out", [[], [], [], []], None)
    report = evaluate.evaluate_sequence(tmp_path / "clip.npz", tmp_path / "out")
    assert (report["motion"]["MOTA"], report["motion"]["HOTA"]) == (0, 0)
    assert np.isnan(report["motion"]["jitter_at_rest_mm"])
    assert report["sets"]["clip"]["pck_all"] == 0


def test_the_command_prints_a_table_or_json(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    people = [[pose(1, -1, 5)]]
    write_truth3d(tmp_path / "set", people)
    write_run(tmp_path / "out", people, ["000.webp"])
    words = ["eval", "truth3d", str(tmp_path / "set"), str(tmp_path / "out")]
    assert main(words) == 0
    assert "MPJPE" in capsys.readouterr().out
    assert main([*words, "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["sets"]["set"]["pck_all"] == 1
    assert report["sets"]["set"]["depth_order"] is None  # nothing to order


def coco_files(tmp_path: Path, first: Any = 100.0) -> list[str]:
    points = [float(v) for n in range(17) for v in (100 + 5 * n, 100 + 3 * n, 2)]
    truth = {
        "images": [{"id": 7, "width": 640, "height": 480}],
        "annotations": [{
            "id": 1, "image_id": 7, "category_id": 1, "iscrowd": 0, "area": 5000.0,
            "bbox": [100.0, 100.0, 80.0, 50.0], "num_keypoints": 17, "keypoints": points,
        }],
        "categories": [{"id": 1, "name": "person"}],
    }  # fmt: skip
    found = [{"image_id": 7, "category_id": 1, "score": 0.5, "keypoints": [first, *points[1:]]}]
    (tmp_path / "truth.json").write_text(json.dumps(truth))
    (tmp_path / "coco.json").write_text(json.dumps(found))
    return [str(tmp_path / "coco.json"), str(tmp_path / "truth.json")]


def test_coco_scores_a_results_file_or_a_run_folder(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    results, truth = coco_files(tmp_path)
    assert main(["eval", "coco", results, truth, "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["AP"] == pytest.approx(1)
    assert report["AP_se"] == pytest.approx(0)
    assert main(["eval", "coco", str(tmp_path), truth]) == 0
    assert "AP50" in capsys.readouterr().out


def test_nan_never_wins(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    results, truth = coco_files(tmp_path, first=float("nan"))
    assert main(["eval", "coco", results, truth]) == 4
    assert "result 0: not finite" in capsys.readouterr().err


def test_wrong_input_is_one_clear_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    results, truth = coco_files(tmp_path)
    (tmp_path / "text.json").write_text("hello")
    (tmp_path / "set").mkdir()
    for words in (
        ["coco", str(tmp_path / "none.json"), truth],
        ["coco", str(tmp_path / "text.json"), truth],
        ["coco", results, results],
        ["coco", truth, truth],
        ["truth3d", str(tmp_path / "set"), str(tmp_path)],
        ["mupots", str(tmp_path), str(tmp_path)],
        ["mpi3dhp", str(tmp_path), str(tmp_path)],
    ):
        assert main(["eval", *words]) == 4
        error = capsys.readouterr().err
        assert error.count("\n") == 1
        assert str(tmp_path) in error
    assert main(["eval"]) == 2
    assert main(["eval", "panoptic"]) == 2


def test_a_run_of_other_pictures_is_refused(tmp_path: Path) -> None:
    write_truth3d(tmp_path / "set", [[pose(1, 0, 5)]])
    write_run(tmp_path / "out", [[pose(1, 0, 5)]], ["other.webp"])
    with pytest.raises(SourceError, match="none of its pictures"):
        evaluate.evaluate_truth3d(tmp_path / "set", tmp_path / "out")
    write_truth3d(tmp_path / "set", [[pose(1, 0, 5)]], units="furlong")
    with pytest.raises(SourceError, match="furlong"):
        evaluate.evaluate_truth3d(tmp_path / "set", tmp_path / "out")


def test_a_damaged_matlab_file_is_named(tmp_path: Path) -> None:
    (tmp_path / "TS1").mkdir()
    (tmp_path / "TS1" / "annot.mat").write_bytes(b"not a matlab file" * 50)
    with pytest.raises(SourceError, match=r"annot\.mat"):
        evaluate.evaluate_sequences("mupots", tmp_path, tmp_path)


@pytest.mark.parametrize("name", ["panoptic_a", "h36m_a", "mpi3dhp_a"])
def test_real_truth_scored_against_itself(name: str, shared: Path, tmp_path: Path) -> None:
    from manypose.app.truth import read_truth3d

    sequence = read_truth3d(shared / "data" / "truth3d" / name)
    frames, files = [], []
    for stem, frame in sequence.frames.items():
        files.append(f"{stem}.webp")
        frames.append(list(frame.points_m))
    write_run(tmp_path / "out", frames, files)
    # the projection above is of another camera: put the true pixels in
    with np.load(tmp_path / "out" / "pose.npz") as z:
        data = dict(z)
    pixels = np.concatenate([f.points_px for f in sequence.frames.values()])
    for joint, place in enumerate(SHOWN_BY):
        if place >= 0:
            known = np.isfinite(pixels[:, joint, :1])
            data["kp2d"][:, place] = np.where(
                known, np.c_[np.nan_to_num(pixels[:, joint]), np.ones(len(pixels))], 0
            )
    np.savez(tmp_path / "out" / "pose.npz", **data)
    (tmp_path / "out" / "meta.json").write_text(
        json.dumps({"camera": {"width": sequence.width_px}})
    )
    figures = evaluate.evaluate_truth3d(shared / "data" / "truth3d" / name, tmp_path / "out")
    scores = figures["sets"][name]
    assert scores["found_share"] > 0.95
    assert scores["mpjpe_mm"] < 0.1
    assert scores["pck_matched"] == 1
