import json

import cv2
import numpy as np
import pytest

from manypose.errors import SourceError
from manypose.models.train import packs
from manypose.models.train.figures import figures
from manypose.pose.joints import INDEX_2D


def test_a_pack_in_several_parts_reads_back_as_it_was(tmp_path):
    photos = figures(7, 128, 96)
    assert packs.write_pack(photos, tmp_path / "p", part_bytes=30_000) == 7
    manifest = json.loads((tmp_path / "p" / "pack.json").read_text())
    assert len(manifest["parts"]) > 1
    assert all(p["bytes"] < 60_000_000 for p in manifest["parts"])
    back = list(packs.read_pack(tmp_path / "p"))
    assert [p.key for p in back] == [p.key for p in photos]
    for a, b in zip(photos, back):
        np.testing.assert_array_equal(a.joints_px, b.joints_px)
        np.testing.assert_array_equal(a.box_px, b.box_px)
        np.testing.assert_array_equal(a.known, b.known)
        image = np.asarray(packs.decoded(b).picture)
        assert image.shape == a.picture.shape
        assert np.abs(image.astype(int) - a.picture).mean() < 6
    # packing the pack again changes no picture: files are kept as they are
    packs.write_pack(back, tmp_path / "q", part_bytes=30_000)
    again = list(packs.read_pack(tmp_path / "q"))
    assert [p.picture for p in again] == [p.picture for p in back]


def test_a_damaged_part_is_refused(tmp_path):
    packs.write_pack(figures(2, 64, 48), tmp_path)
    part = tmp_path / "part_0000.npz"
    data = bytearray(part.read_bytes())
    data[len(data) // 2] ^= 1
    part.write_bytes(data)
    with pytest.raises(SourceError, match="copy it again"):
        list(packs.read_pack(tmp_path))


def test_a_folder_without_a_pack_is_a_clear_error(tmp_path):
    with pytest.raises(SourceError, match="train pack"):
        list(packs.read_pack(tmp_path))


def test_scaling_a_photo_moves_pixel_centres():
    image = np.zeros((100, 200, 3), np.uint8)
    joints = np.zeros((1, 20, 3), np.float32)
    joints[0, 0] = (199.5, 99.5, 2)  # the far corner of the picture
    item = packs.photo(image, "a", "t", joints, box_px=np.array([[-0.5, -0.5, 200, 100]]))
    half = packs.decoded(item, 100)
    np.testing.assert_allclose(half.joints_px[0, 0], (99.5, 49.5, 2))
    np.testing.assert_allclose(half.box_px[0], (-0.5, -0.5, 100, 50))
    assert half.area_px[0] == pytest.approx(item.area_px[0] / 4)
    assert half.joints_px[0, 1].tolist() == [0, 0, 0]
    assert packs.decoded(item, 200).joints_px is item.joints_px


def test_a_picture_that_is_none_is_a_clear_error():
    with pytest.raises(SourceError, match="damaged"):
        packs.decoded(packs.photo(b"no picture", "a", "t"))


def test_labels_hold_in_stored_pixels_whatever_the_file_says_about_turning():
    image = np.zeros((40, 60, 3), np.uint8)
    _, data = cv2.imencode(".jpg", image)
    raw = bytes(data)
    # an Exif block that asks viewers to turn the picture by 90 degrees
    tiff = (
        b"II*\x00\x08\x00\x00\x00\x01\x00\x12\x01\x03\x00\x01\x00\x00\x00\x06\x00\x00\x00"
        + b"\0" * 4
    )
    body = b"Exif\x00\x00" + tiff
    exif = b"\xff\xe1" + (len(body) + 2).to_bytes(2, "big") + body
    turned = raw[:2] + exif + raw[2:]
    assert cv2.imdecode(np.frombuffer(turned, np.uint8), 1).shape == (60, 40, 3)
    assert packs.decoded(packs.photo(turned, "a", "t")).picture.shape == (40, 60, 3)


def test_neck_and_pelvis_are_half_way_or_missing():
    joints = np.zeros((2, 20, 3), np.float32)
    for n, name in enumerate(("l_shoulder", "r_shoulder", "l_hip")):
        joints[:, INDEX_2D[name]] = (10 * n, 20 * n, 2)
    joints[1, INDEX_2D["r_shoulder"], 2] = 1
    joints[:, INDEX_2D["pelvis"]] = 7
    found = packs.with_middles(joints)
    np.testing.assert_allclose(found[0, INDEX_2D["neck"]], (5, 10, 2))
    assert found[1, INDEX_2D["neck"], 2] == 1
    assert found[:, INDEX_2D["pelvis"]].max() == 0


def test_wrong_shapes_are_refused():
    with pytest.raises(ValueError, match="box_px"):
        packs.photo(b"", "a", "t", np.zeros((2, 20, 3)), box_px=np.zeros((1, 4)))
