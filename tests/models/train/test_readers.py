import gzip
import json

import cv2
import numpy as np
import pytest

from manypose.errors import SourceError, UsageError
from manypose.models.train import packs, readers
from manypose.models.train.portraits import patches
from manypose.models.weights import SHIPPED
from manypose.pose.joints import INDEX, INDEX_2D, JOINTS, ROOT


def _jpeg(path, width=64, height=48):
    path.parent.mkdir(parents=True, exist_ok=True)
    cv2.imwrite(str(path), np.full((height, width, 3), 100, np.uint8))
    return path.read_bytes()


def test_coco_files_are_read_as_published(tmp_path):
    _jpeg(tmp_path / "val2017" / "000000000001.jpg")
    _jpeg(tmp_path / "val2017" / "000000000002.jpg")
    points = np.zeros((17, 3))
    points[5], points[6], points[9] = (10, 20, 2), (20, 20, 1), (12, 30, 2)
    person = {"image_id": 1, "keypoints": points.ravel().tolist(), "bbox": [5, 5, 30, 40],
              "area": 600.0, "iscrowd": 0, "num_keypoints": 3}  # fmt: skip
    hidden = {"image_id": 1, "keypoints": [0] * 51, "bbox": [40, 5, 10, 20], "iscrowd": 0}
    crowd = {"image_id": 1, "bbox": [50, 5, 10, 20], "iscrowd": 1, "keypoints": [0] * 51}
    document = {
        "images": [{"id": 1, "file_name": "000000000001.jpg"},
                   {"id": 2, "file_name": "000000000002.jpg"}],
        "annotations": [person, hidden, crowd],
    }  # fmt: skip
    file = tmp_path / "annotations" / "person_keypoints_val2017.json"
    file.parent.mkdir()
    file.write_text(json.dumps(document))
    first, second = readers.open_source(f"coco:{file}")
    np.testing.assert_array_equal(first.joints_px[0, 5], (10, 20, 2))
    np.testing.assert_array_equal(first.joints_px[0, INDEX_2D["neck"]], (15, 20, 1))
    assert first.joints_px[0, INDEX_2D["pelvis"], 2] == 0
    assert first.area_px[0] == 600
    assert len(first.ignore_px) == 2
    assert not first.known[INDEX_2D["head_top"]]
    assert len(second.joints_px) == 0
    # joints that nobody in the file has are not labelled there at all
    there = [INDEX_2D[n] for n in ("l_shoulder", "r_shoulder", "l_wrist", "neck")]
    assert sorted(np.flatnonzero(first.known)) == sorted(there)
    assert first.reach_px[2] > 1e5
    near = next(readers.open_source(f"coco:{file},people=some"))
    np.testing.assert_array_equal(near.reach_px, (-5, -5, 50, 60))
    sparse = next(readers.open_source(f"coco:{file},joints=some"))
    assert sparse.joints_px[0, INDEX_2D["r_wrist"], 2] == -1
    np.testing.assert_array_equal(sparse.joints_px[0, 5], first.joints_px[0, 5])
    with pytest.raises(UsageError, match="people=all"):
        next(readers.open_source(f"coco:{file},people=few"))
    (only,) = readers.open_source(f"coco:{file},images={tmp_path / 'val2017'},skip=1,limit=1")
    assert only.key == "2"


def _photo_pack(folder, labels="hand"):
    data = _jpeg(folder / "x.jpg")
    (folder / "images_train_00.bin").write_bytes(b"??" + data)
    points = np.zeros((17, 3))
    points[5:13] = np.stack([np.arange(8) * 5 + 10, np.full(8, 20), np.full(8, 2)], 1)
    record = {
        "id": 7, "source": "lspet", "labels": labels, "shard": "images_train_00.bin", "offset": 2,
        "length": len(data), "unlabelled_people": "possible", "ignore": [{"bbox": [0, 0, 9, 9]}],
        "persons": [{"keypoints": points.ravel().tolist(), "bbox": [8, 8, 40, 30], "area": 500.0,
                     "extra": {"head_top": [20, 5, 2]}}],
    }  # fmt: skip
    names = ["nose", "left_eye", "right_eye", "left_ear", "right_ear"] + [
        f"{side}_{part}"
        for part in ("shoulder", "elbow", "wrist", "hip", "knee", "ankle")
        for side in ("left", "right")
    ]
    document = {
        "keypoint_names": names, "images": [record],
        "sources": {"lspet": {"kp_labelled": [0] * 5 + [1] * 12, "extra": ["neck", "head_top"]}},
    }  # fmt: skip
    with gzip.open(folder / "labels_train.json.gz", "wt") as file:
        json.dump(document, file)
    return points


def test_photo_packs_are_read_with_masks_for_what_a_source_does_not_label(tmp_path):
    points = _photo_pack(tmp_path)
    (found,) = readers.open_source(f"photos:{tmp_path}")
    np.testing.assert_array_equal(found.joints_px[0, :17], points)
    np.testing.assert_array_equal(found.joints_px[0, INDEX_2D["head_top"]], (20, 5, 2))
    assert not found.known[:5].any()
    assert found.known[5:].all()
    # only the surroundings of the labelled person are known
    np.testing.assert_array_equal(found.reach_px, (-2, -2, 60, 50))
    assert packs.decoded(found).picture.shape == (48, 64, 3)


def test_joints_that_a_network_was_not_sure_of_are_unknown(tmp_path):
    _photo_pack(tmp_path, labels="teacher")
    (found,) = readers.open_source(f"photos:{tmp_path}")
    names = ("l_ankle", "r_knee", "l_shoulder", "neck", "nose")  # noses are not labelled at all
    flags = found.joints_px[0, [INDEX_2D[n] for n in names], 2]
    np.testing.assert_array_equal(flags, (-1, -1, 2, 2, 0))
    rows = list(patches.cut([found], np.random.default_rng(0)))
    known = rows[0]["known"][[INDEX_2D[n] for n in names]]
    np.testing.assert_array_equal(known, (False, False, True, True, False))
    assert (rows[0]["joints_px"][:, 2] >= 0).all()


def test_teacher_labels_mend_sides_add_faces_people_and_3d(tmp_path):
    points = _photo_pack(tmp_path)
    kp = np.zeros((3, 17, 2), np.int16)
    kp[0] = points[:, :2] * 4
    kp[0, :5] = (20 * 4, 8 * 4)
    kp[1] = (50 * 4, 30 * 4)
    score = np.full((3, 17), 200, np.uint8)
    score[1, 10:] = 10
    np.savez(
        tmp_path / "pseudo.npz", image_id=[7, 7, 99], hand_index=[0, -1, 0], oks=[0.8, -1, 0.9],
        box=np.array([[0, 0, 9, 9], [40, 20, 20, 20], [0, 0, 1, 1]], np.float16),
        box_score=[1, 0.9, 1], kp=kp, kp_score=score, swap_suspect=[1, 0, 0], q3=[3, 0, 3],
        lift_row=[0], lift_mm=np.full((1, 26, 3), 500, np.int16),
        lift_sigma_mm=np.full((1, 26), 60, np.uint8),
    )  # fmt: skip
    address = f"photos:{tmp_path},teachers={tmp_path / 'pseudo.npz'}"
    (found,) = readers.open_source(address)
    np.testing.assert_array_equal(found.joints_px[0, 5], points[6])  # sides turned round
    np.testing.assert_array_equal(found.joints_px[0, 0], (20, 8, 1))  # a point of the face
    assert np.isnan(found.joints_m).all()  # not for a person whose sides are doubtful
    assert len(found.joints_px) == 2
    assert (found.joints_px[1, :17, 2] > 0).sum() == 10
    assert len(found.ignore_px) == 2  # round the added person nothing is known
    table = dict(np.load(tmp_path / "pseudo.npz"))
    table["swap_suspect"][:] = 0
    np.savez(tmp_path / "pseudo.npz", **table)
    (found,) = readers.open_source(address)
    assert found.joints_m[0].max() == 0.5
    np.testing.assert_allclose(found.weight_3d[0], 0.3 * 0.06 / 0.12, rtol=1e-5)


def test_photos_without_3d_are_lifted_where_enough_is_labelled(tmp_path):
    points = _photo_pack(tmp_path)
    points[13:] = np.stack([np.arange(4) * 5 + 10, np.full(4, 40), np.full(4, 2)], 1)
    (plain,) = readers.open_source(f"photos:{tmp_path}")
    assert np.isnan(plain.joints_m).all()  # eight joints do not make a body
    with gzip.open(tmp_path / "labels_train.json.gz", "rt") as file:
        document = json.load(file)
    document["images"][0]["persons"][0]["keypoints"] = points.ravel().tolist()
    with gzip.open(tmp_path / "labels_train.json.gz", "wt") as file:
        json.dump(document, file)
    (found,) = readers.open_source(f"photos:{tmp_path},lift={SHIPPED / 'lifter.npz'}")
    assert np.isfinite(found.joints_m).all()
    np.testing.assert_allclose(found.joints_m[0, ROOT], 0, atol=1e-6)
    below = found.joints_m[0, INDEX["l_knee"], 1] - found.joints_m[0, INDEX["l_hip"], 1]
    assert below > 0  # y points down
    assert (found.weight_3d > 0).all()
    assert found.weight_3d.max() <= 0.3 + 1e-6
    with pytest.raises(SourceError, match="lift="):
        list(readers.open_source(f"photos:{tmp_path},lift={tmp_path / 'none.npz'}"))


def _body(rng):
    """21 points in front of a camera (mm) and where a camera of focal length 60 px sees them."""
    mm = rng.uniform(-400, 400, (21, 3)) + np.array([100, 0, 3000])
    return mm, mm[:, :2] / mm[:, 2:] * 60 + (32, 24)


def test_mpi_inf_3dhp_is_read_as_published(tmp_path):
    from scipy.io import savemat

    rng = np.random.default_rng(0)
    ours = list(readers.readers3d._MPI28)
    annot2, annot3 = (np.empty((2, 1), object) for _ in range(2))
    bodies = []
    for camera in range(2):
        px = rng.uniform(5, 40, (4, 28, 2))
        mm = rng.uniform(-400, 400, (4, 28, 3)) + np.array([0, 0, 3000])
        bodies.append((px, mm))
        annot2[camera, 0], annot3[camera, 0] = px.reshape(4, 56), mm.reshape(4, 84)
    folder = tmp_path / "S1" / "Seq1"
    for frame in (1, 3):
        _jpeg(folder / "imageFrames" / "video_1" / f"frame_{frame:06d}.jpg")
    cameras = np.arange(2)
    savemat(folder / "annot.mat", {"annot2": annot2, "annot3": annot3, "cameras": cameras})
    found = list(readers.open_source(f"mpi3dhp:{tmp_path},step=2"))
    assert [p.key for p in found] == ["S1/Seq1/1/0", "S1/Seq1/1/2"]
    px, mm = bodies[1]
    second = found[1]
    at = ours[INDEX["l_wrist"]]
    np.testing.assert_allclose(second.joints_px[0, INDEX_2D["l_wrist"], :2], px[2, at], rtol=1e-5)
    bone = second.joints_m[0, INDEX["l_wrist"]] - second.joints_m[0, INDEX["l_elbow"]]
    truth = (mm[2, at] - mm[2, ours[INDEX["l_elbow"]]]) / 1000
    assert np.linalg.norm(bone) == pytest.approx(np.linalg.norm(truth), rel=1e-4)
    assert not second.known[:5].any()


def test_mpi_inf_3dhp_videos_are_read_too(tmp_path):
    from scipy.io import savemat

    folder = tmp_path / "S1" / "Seq2" / "imageSequence"
    folder.mkdir(parents=True)
    writer = cv2.VideoWriter(
        str(folder / "video_0.avi"), cv2.VideoWriter.fourcc(*"MJPG"), 25, (64, 48)
    )
    for n in range(5):
        writer.write(np.full((48, 64, 3), 40 * n, np.uint8))
    writer.release()
    cells = np.empty((1, 1), object), np.empty((1, 1), object)
    cells[0][0, 0], cells[1][0, 0] = np.full((5, 56), 20.0), np.full((5, 84), 1000.0)
    savemat(folder.parent / "annot.mat", {"annot2": cells[0], "annot3": cells[1]})
    found = list(readers.open_source(f"mpi3dhp:{tmp_path},step=2"))
    assert [p.key[-1] for p in found] == ["0", "2", "4"]
    assert abs(int(found[1].picture.mean()) - 80) < 4


def test_muco_is_read_as_published(tmp_path):
    rng = np.random.default_rng(1)
    people = [_body(rng) for _ in range(2)]
    _jpeg(tmp_path / "augmented_set" / "a.jpg")
    document = {
        "images": [{"id": 3, "file_name": "augmented_set/a.jpg", "width": 64, "height": 48}],
        "annotations": [
            {"image_id": 3, "keypoints_img": px.tolist(), "keypoints_cam": mm.tolist(),
             "keypoints_vis": [n != 4 for n in range(21)]}
            for mm, px in people
        ],
    }  # fmt: skip
    (tmp_path / "MuCo-3DHP.json").write_text(json.dumps(document))
    (found,) = readers.open_source(f"muco:{tmp_path}")
    _, px = people[1]
    wrist = JOINTS.index("r_wrist")
    assert wrist == 4
    np.testing.assert_allclose(found.joints_px[1, INDEX_2D["r_wrist"], :2], px[4], rtol=1e-4)
    assert found.joints_px[1, INDEX_2D["r_wrist"], 2] == 1
    assert found.joints_px[1, INDEX_2D["l_wrist"], 2] == 2
    assert np.isfinite(found.joints_m).all()


def test_3d_is_seen_by_a_camera_that_looks_at_the_neck():
    rng = np.random.default_rng(2)
    joints_m = rng.normal(0, 0.3, (4, 21, 3)) + rng.normal(0, 1, (4, 1, 3)) + (0, 0, 4)
    turned = packs.seen_straight(joints_m)
    neck, pelvis = JOINTS.index("neck"), JOINTS.index("pelvis")
    for n in range(4):
        # rigid, and the ray to the neck has become the optical axis
        a, b = joints_m[n] - joints_m[n, pelvis], turned[n]
        np.testing.assert_allclose(a @ a.T, b @ b.T, atol=1e-5)
        ray = joints_m[n, neck] / np.linalg.norm(joints_m[n, neck])
        rotation = np.linalg.lstsq(a, b, rcond=None)[0].T
        np.testing.assert_allclose(rotation @ ray, (0, 0, 1), atol=1e-5)


def test_folders_without_people_and_of_unknown_content(tmp_path):
    _jpeg(tmp_path / "a" / "1.jpg")
    _jpeg(tmp_path / "2.png")
    empty = list(readers.open_source(f"folder:{tmp_path}"))
    assert [p.key for p in empty] == ["2.png", "a/1.jpg"]
    assert all(p.known.all() for p in empty)
    unknown = next(readers.open_source(f"folder:{tmp_path},people=unknown"))
    assert not unknown.known.any()


def test_renders_are_photos_with_true_3d():
    from manypose.models.train.synth.pack import RenderedPicture

    rng = np.random.default_rng(3)
    bodies = [_body(rng) for _ in range(3)]
    joints_m = np.stack([mm for mm, _ in bodies]).astype(np.float32) / 1000
    joints_m[2, :, 2] -= 6  # behind the camera
    seen = np.full((3, 20), 2, np.uint8)
    seen[0, 3] = 0  # outside the picture
    seen[1] = 1  # wholly hidden
    picture = RenderedPicture(
        np.zeros((48, 64, 3), np.uint8), np.zeros((48, 64), np.uint8), np.eye(3), -1, 0,
        np.arange(3), rng.uniform(0, 40, (3, 20, 2)).astype(np.float32), seen, joints_m,
        np.full((3, 21), 2), np.tile([1, 2, 30, 40], (3, 1)).astype(np.float32), np.ones(3),
    )  # fmt: skip
    found = readers.rendered_photo(picture, (64, 48), "k")
    assert len(found.joints_px) == 1
    assert found.joints_px[0, 3, 2] == 1  # known, though not in the picture
    assert len(found.ignore_px) == 1
    assert np.isfinite(found.joints_m).all()


def test_shares_decide_how_often_a_source_is_drawn(tmp_path):
    for name, count in (("a", 1), ("b", 4)):
        for n in range(count):
            _jpeg(tmp_path / name / f"{n}.jpg")
    mixed = list(
        readers.mixed([f"folder:{tmp_path / 'a'},share=0.5", f"folder:{tmp_path / 'b'},share=0.5"])
    )
    assert [p.weight for p in mixed] == [0.5] + [0.125] * 4
    with pytest.raises(UsageError, match="share"):
        list(readers.mixed([f"folder:{tmp_path / 'a'},share=0.5", f"folder:{tmp_path / 'b'}"]))


@pytest.mark.parametrize(
    ("address", "error", "words"),
    [
        ("nothing:here", UsageError, "there is no source"),
        ("folder:here,people", UsageError, "option=value"),
        ("folder:nowhere", SourceError, "no folder"),
        ("coco:nowhere.json", SourceError, "COCO"),
        ("photos:nowhere", SourceError, "photo pack"),
        ("muco:nowhere", SourceError, "MuCo"),
        ("mpi3dhp:nowhere", SourceError, "annot.mat"),
        ("renders:nowhere", SourceError, "render"),
    ],
)
def test_wrong_addresses_are_one_clear_line(address, error, words):
    with pytest.raises(error, match=words):
        list(readers.open_source(address))


@pytest.mark.slow
def test_the_shared_photos_are_read(shared):
    pack = shared / "data" / "real"
    found = list(readers.open_source(f"photos:{pack},limit=40,teachers={pack / 'pseudo.npz'}"))
    assert len(found) == 40
    assert any(np.isfinite(p.joints_m).any() for p in found)
    for item in found[:10]:
        image = packs.decoded(item).picture
        assert image.ndim == 3
        seen = item.joints_px[item.joints_px[..., 2] > 0]
        assert (seen[:, :2] > -20).all()
        assert (seen[:, 0] < image.shape[1] + 20).all()
