"""What is put before people of photographs: labels against the pixels that changed."""

from __future__ import annotations

import argparse
from pathlib import Path

import cv2
import numpy as np
import pytest

from manypose.errors import SourceError
from manypose.models.train import packs, pasted
from manypose.models.train.synth import command
from manypose.models.train.synth.pack import read_part
from manypose.pose.joints import JOINTS_2D

_K = len(JOINTS_2D)
_GREY = 118


@pytest.fixture(scope="module")
def renders(box_files: tuple[Path, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A few rendered pictures of one box person each."""
    out = tmp_path_factory.mktemp("renders")
    parser = argparse.ArgumentParser()
    command.add_arguments(parser)
    given = ["--avatars", str(box_files[0]), "--mocap", str(box_files[1]), "--split", "all",
             "--device", "cpu", "--size", "384x240", "--count", "40", "--people", "1",
             "--out", str(out)]  # fmt: skip
    assert command.run(parser.parse_args(given)) == 0
    return out


def _photo(key: str = "k") -> packs.Photo:
    """A grey picture whose person has all joints in sight, spread over their box."""
    rng = np.random.default_rng(3)
    joints = np.full((1, _K, 3), 2.0, np.float32)
    joints[0, :, :2] = rng.uniform([200, 120], [300, 380], (_K, 2))
    box = np.array([[190, 110, 120, 280]], np.float32)
    image = np.full((460, 620, 3), _GREY, np.uint8)
    return packs.photo(image, key, "test", joints, box_px=box)


def test_people_are_cut_out_with_their_labels(renders: Path) -> None:
    pictures = [p for file in sorted(renders.iterdir()) for p in read_part(file)]
    found = [c for p in pictures for c in pasted.cutouts(p)]
    assert len(found) >= 5
    for one in found:
        near = cv2.dilate(one.alpha, np.ones((5, 5), np.uint8))
        at = one.joints_px[one.seen == 2].round().astype(int)
        assert (near[at[:, 1], at[:, 0]] > 0).all()
        assert one.image.shape[:2] == one.alpha.shape
        assert np.isfinite(one.joints_m).all()


def test_who_is_pasted_is_labelled_and_who_is_covered_is_hidden(renders: Path) -> None:
    before = _photo()
    persons = on_body = asked = covered = 0
    for n, item in enumerate(pasted.add((_photo() for _ in range(60)), renders, seed=5)):
        image = np.asarray(item.picture)
        changed = (np.abs(image.astype(int) - _GREY) > 0).any(2)
        whole = np.ascontiguousarray(cv2.erode(changed.astype(np.uint8), np.ones((5, 5))) > 0)
        # the one who stood there: nothing moved, under the paint hidden, elsewhere as before
        own = np.flatnonzero((item.joints_px[:, :, :2] == before.joints_px[0, :, :2]).all((1, 2)))
        assert len(own) + len(item.ignore_px) == 1, n
        at = before.joints_px[0, :, :2].round().astype(int)
        if len(own):
            state = item.joints_px[own[0], :, 2]
            assert (state[whole[at[:, 1], at[:, 0]]] == 1).all()
            assert (state[~changed[at[:, 1], at[:, 0]]] == 2).all()
            covered += int((state == 1).sum())
        new = np.setdiff1d(np.arange(len(item.joints_px)), own)
        if not len(new):
            continue
        persons += 1
        joints = item.joints_px[new[0]]
        seen = joints[joints[:, 2] == 2, :2].round().astype(int)
        near = cv2.dilate(changed.astype(np.uint8), np.ones((7, 7)))
        asked += len(seen)
        on_body += int(near[seen[:, 1], seen[:, 0]].sum())
        assert np.isfinite(item.joints_m[new[0]]).all()
        assert (item.weight_3d[new[0]] == 1).all()
        x, y, w, h = item.box_px[new[0]].astype(int)
        inside = whole[y : y + h, x : x + w].sum()
        assert inside == whole.sum()
    assert 30 <= persons <= 55
    assert covered > 60
    assert asked > 10 * persons
    assert on_body > 0.97 * asked


def test_pictures_without_people_stay_as_they_are(renders: Path) -> None:
    empty = packs.photo(np.full((60, 80, 3), 9, np.uint8), "e", "test")
    (same,) = pasted.add(iter([empty]), renders)
    assert same is empty


def test_the_same_seed_gives_the_same_pictures(renders: Path) -> None:
    first, again, other = (
        [np.asarray(p.picture) for p in pasted.add(iter([_photo(), _photo()]), renders, seed)]
        for seed in (1, 1, 2)
    )
    assert all((a == b).all() for a, b in zip(first, again))
    assert any((a != b).any() for a, b in zip(first, other))


def test_nobody_to_cut_out_is_told(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match="render"):
        list(pasted.add(iter([_photo()]), tmp_path))
