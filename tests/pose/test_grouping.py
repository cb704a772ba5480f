from __future__ import annotations

import itertools
import json
import time
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from manypose.pose.grouping import GroupingConfig, group
from manypose.pose.joints import BONE_UNIT_M, CARRIED, INDEX_2D, JOINTS, JOINTS_2D, LIMBS
from manypose.pose.records import NetworkOutput, Person2D
from manypose.pose.targets import draw

K, J, L = len(JOINTS_2D), len(JOINTS), len(LIMBS)
W, H = 512, 320
TO_INPUT = np.array([[8, 0, 3.5], [0, 8, 3.5]])
Array = np.ndarray


def figure(rng: np.random.Generator, height: float, x: float, y: float) -> Array:
    """A front view (K, 3) of somebody `height` px tall with arms and legs anywhere."""

    def along(angle: float) -> Array:
        return np.array([np.sin(angle), np.cos(angle)])  # 0 is down

    lean = rng.normal(0, 0.25)
    up = -along(lean)
    side = np.array([-up[1], up[0]]) * rng.uniform(0.3, 1) * rng.choice([-1, 1])
    at = {"pelvis": np.zeros(2), "neck": 0.29 * up, "head_top": 0.46 * up}
    at["nose"] = 0.39 * up + 0.02 * side
    for s, sign in (("l", 1), ("r", -1)):
        at[f"{s}_eye"] = 0.415 * up + sign * 0.022 * side
        at[f"{s}_ear"] = 0.4 * up + sign * 0.05 * side
        at[f"{s}_shoulder"] = 0.28 * up + sign * 0.11 * side
        at[f"{s}_hip"] = sign * 0.055 * side
        for chain, spread in (
            (("shoulder", "elbow", "wrist"), 0.8),
            (("hip", "knee", "ankle"), 0.35),
        ):
            angle = lean
            for before, after in itertools.pairwise(chain):
                angle += rng.normal(0, spread)
                length = 0.16 if chain[0] == "shoulder" else 0.24
                at[f"{s}_{after}"] = at[f"{s}_{before}"] + length * along(angle)
    out = np.full((K, 3), 2.0)
    for name, place in at.items():
        out[INDEX_2D[name], :2] = place * height + (x, y)
    return out


def limb_points(one: Array) -> Array:
    """Five points on every limb (L, 5, 2), NaN where an end is not labelled."""
    a, b = np.array(LIMBS).T
    t = np.linspace(0, 1, 5)[:, None]
    points = one[a, None, :2] * (1 - t) + one[b, None, :2] * t
    points[(one[a, 2] == 0) | (one[b, 2] == 0)] = np.nan
    return points


def scene(rng: np.random.Generator, count: int, limbs_apart_px: float = 12) -> Array:
    """People (N, K, 3), cut by the picture's edges, over each other.

    Same joints lie 24 px apart (nearer ones melt into one peak), same limbs `limbs_apart_px`
    (where they lie on each other the field is their mean: nobody can tell whose is whose).
    """
    low, high = (0.3, 0.9) if count < 10 else (0.15, 0.4)
    people: list[Array] = []
    for _ in range(600):
        if len(people) == count:
            break
        size = rng.uniform(low, high) * H
        one = figure(rng, size, rng.uniform(0, W), rng.uniform(0.2, 0.8) * H)
        xy = one[:, :2]
        one[((xy < -0.5) | (xy >= (W - 0.5, H - 0.5))).any(1), 2] = 0
        if (one[:, 2] > 0).sum() < 6:
            continue
        points = limb_points(one)
        for other in people:
            both = (one[:, 2] > 0) & (other[:, 2] > 0)
            apart = np.hypot(*(xy - other[:, :2])[both].T).min(initial=np.inf)
            gap = points[:, :, None] - limb_points(other)[:, None]
            near = np.hypot(gap[..., 0], gap[..., 1]) < limbs_apart_px
            if apart < 24 or near.any():
                break
        else:
            people.append(one)
    return np.array(people).reshape(-1, K, 3)


def look(people: Array, bones_m: Array | None = None) -> NetworkOutput:
    return NetworkOutput(*draw(people, H, W, bones_m), TO_INPUT)


def partner(one: Array, found: list[Person2D]) -> tuple[Person2D, Array]:
    """The found person with most joints of `one`, and the distances (K,) px, NaN = not found."""
    apart = [np.hypot(*(p.joints_px - one[:, :2]).T) for p in found]
    best = int(np.argmax([(a[one[:, 2] > 0] < 4).sum() for a in apart]))
    return found[best], apart[best]


def check_round_trip(people: Array, found: list[Person2D]) -> None:
    assert len(found) == len(people)
    partners = set()
    for one in people:
        other, apart = partner(one, found)
        partners.add(id(other))
        labelled = one[:, 2] > 0
        assert (other.confidence > 0).tolist() == labelled.tolist()
        assert apart[labelled].max() < 0.25
    assert len(partners) == len(people)


@settings(max_examples=10, deadline=None, derandomize=True)
@given(seed=st.integers(0, 10**6), count=st.integers(0, 6))
def test_people_come_back_as_they_were_drawn(seed: int, count: int) -> None:
    people = scene(np.random.default_rng(seed), count)
    check_round_trip(people, group(look(people), GroupingConfig()))


@pytest.mark.parametrize("seed", range(3))
def test_twenty_people_come_back(seed: int) -> None:
    people = scene(np.random.default_rng(seed), 20)
    assert len(people) == 20
    check_round_trip(people, group(look(people), GroupingConfig()))


@settings(max_examples=5, deadline=None, derandomize=True)
@given(seed=st.integers(0, 10**6), shuffle=st.randoms(use_true_random=False))
def test_the_order_of_people_does_not_matter(seed: int, shuffle: object) -> None:
    people = scene(np.random.default_rng(seed), 5)
    order = list(range(5))
    shuffle.shuffle(order)  # type: ignore[attr-defined]
    first = group(look(people), GroupingConfig())
    second = group(look(people[order]), GroupingConfig())
    for a, b in zip(first, second):
        np.testing.assert_array_equal(a.joints_px, b.joints_px)


@pytest.mark.slow
def test_people_lying_on_each_other_keep_nearly_all_joints() -> None:
    right = total = 0
    for seed in range(8):
        people = scene(np.random.default_rng(seed), 8, limbs_apart_px=0)
        found = group(look(people), GroupingConfig())
        for one in people:
            apart = partner(one, found)[1][one[:, 2] > 0]
            right, total = right + (apart < 0.5).sum(), total + len(apart)
    assert right / total > 0.98


def test_encodings_are_read_within_a_millimetre() -> None:
    rng = np.random.default_rng(5)
    joint, bone = np.array(CARRIED).T
    checked = 0
    for count in (1, 4, 8):
        people = scene(rng, count)
        bones = rng.normal(0, 0.3, (count, J, 3))
        found = group(look(people, bones), GroupingConfig())
        xy = np.where(people[..., 2:] > 0, people[..., :2], np.nan)
        for n, one in enumerate(people):
            other, _ = partner(one, found)
            assert other.encoding is not None
            read = other.encoding.reshape(K, J, 3) * BONE_UNIT_M
            assert np.isnan(read[one[:, 2] == 0]).all()
            for j, b in zip(joint, bone):
                # a bone's channel may belong to somebody else who carries it near by
                rivals = np.delete(xy, n, 0)[:, joint[bone == b]].reshape(-1, 2)
                contested = (np.abs(rivals - one[j, :2]) < 20).all(1).any()
                if one[j, 2] > 0 and not contested:
                    assert np.abs(read[j, b] - bones[n, b]).max() < 1e-3
                    checked += 1
    assert checked > 200


def test_joints_come_in_image_pixels() -> None:
    people = scene(np.random.default_rng(1), 1)
    output = look(people)
    to_image = np.array([[16.0, 0, 7 + 30], [0, 12, 5 - 10]])
    moved = NetworkOutput(output.heatmaps, output.pafs, None, to_image)
    before, after = group(output, GroupingConfig())[0], group(moved, GroupingConfig())[0]
    cells = (before.joints_px - 3.5) / 8
    np.testing.assert_allclose(after.joints_px, cells * (16, 12) + (37, -5), atol=1e-3)
    assert after.encoding is None


def test_a_wrist_without_its_elbow_still_belongs_to_its_person() -> None:
    people = scene(np.random.default_rng(3), 2)
    people[0, [INDEX_2D["l_elbow"], INDEX_2D["r_hip"]], 2] = 0
    found = group(look(people), GroupingConfig())
    check_round_trip(people, found)
    parts = partner(people[0], found)[0].part_numbers
    wrist = parts[INDEX_2D["l_wrist"]]
    assert (parts == wrist).sum() == 1  # no limb leads there, and the record says so


def test_far_fragments_are_not_joined() -> None:
    two = np.zeros((2, K, 3))
    two[0, :3] = [(60, 60, 2), (66, 54, 2), (54, 54, 2)]  # a face
    two[1, [9, 7]] = [(400, 250, 2), (380, 240, 2)]  # a lower arm at the other side
    assert len(group(look(two), GroupingConfig())) == 2


def test_joints_at_the_border_are_found_to_the_pixel() -> None:
    one = np.zeros((1, K, 3))
    one[0, INDEX_2D["l_elbow"]] = (1.0, 60, 2)
    one[0, INDEX_2D["l_wrist"]] = (40, 318.5, 2)
    one[0, INDEX_2D["l_shoulder"]] = (60, 0.2, 2)
    (found,) = group(look(one), GroupingConfig())
    seen = one[0, :, 2] > 0
    np.testing.assert_allclose(found.joints_px[seen], one[0, seen, :2], atol=0.25)


def blank(h: int = 40, w: int = 64) -> tuple[Array, Array, Array]:
    shape = (h, w)
    return np.zeros((K, *shape)), np.zeros((2 * L, *shape)), np.zeros((3 * J, *shape))


@pytest.mark.parametrize("value", [0.0, 1.0, np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("size", [(40, 64), (1, 1), (1, 64), (40, 1), (2, 2)])
def test_dead_maps_give_no_crash(value: float, size: tuple[int, int]) -> None:
    heatmaps, pafs, encodings = (np.full_like(m, value, np.float32) for m in blank(*size))
    for person in group(NetworkOutput(heatmaps, pafs, encodings, TO_INPUT), GroupingConfig()):
        assert np.isfinite(person.joints_px[person.confidence > 0]).all()
        assert 0 <= person.score <= 1


def test_nan_in_a_corner_leaves_the_others_alone() -> None:
    people = scene(np.random.default_rng(8), 3)
    people[:, :, 0] = people[:, :, 0] * 0.8 + 100
    output = look(people)
    clean = group(output, GroupingConfig())
    output.heatmaps[:, :, :3] = np.nan
    output.pafs[:, :, :3] = np.nan
    spoilt = group(output, GroupingConfig())
    assert len(clean) == len(spoilt) == 3
    for a, b in zip(clean, spoilt):
        np.testing.assert_allclose(a.joints_px, b.joints_px, atol=1e-3)


def test_noise_gives_finite_people_within_the_limits() -> None:
    rng = np.random.default_rng(0)
    maps = [rng.uniform(-0.2, 1, m.shape).astype(np.float32) for m in blank()]
    people = group(NetworkOutput(*maps, TO_INPUT), GroupingConfig(people_max=7))
    assert len(people) <= 7
    scores = [p.score for p in people]
    assert scores == sorted(scores, reverse=True)
    for person in people:
        seen = person.confidence > 0
        assert seen.sum() >= 2
        assert (seen == np.isfinite(person.joints_px[:, 0])).all()
        assert 0 <= person.score <= 1


def test_people_need_evidence() -> None:
    one = np.zeros((1, K, 3))
    one[0, :3] = [(60, 60, 2), (66, 54, 2), (54, 54, 2)]
    output = look(one)
    assert len(group(output, GroupingConfig(joints_min=3))) == 1
    assert group(output, GroupingConfig(joints_min=4)) == []
    assert group(output, GroupingConfig(score_min=0.9)) == []


@pytest.mark.slow
def test_twenty_people_take_under_five_milliseconds() -> None:
    people = scene(np.random.default_rng(0), 20)
    output = look(people, np.zeros((20, J, 3)))
    config = GroupingConfig()
    spent = []
    for _ in range(60):
        start = time.process_time()
        assert len(group(output, config)) == 20
        spent.append(time.process_time() - start)
    assert min(spent) < 5e-3


@pytest.mark.slow
def test_hand_labels_come_back_from_perfect_maps(shared: Path) -> None:
    from manypose.pose.scores_2d import coco_ap

    truth = json.loads((shared / "data" / "real" / "val_coco_gt.json").read_text())
    labels: dict[int, list[Array]] = {}
    for a in truth["annotations"]:
        if a["num_keypoints"]:
            labels.setdefault(a["image_id"], []).append(np.reshape(a["keypoints"], (17, 3)))
    results = []
    for picture in truth["images"]:
        if picture["id"] not in labels:
            continue
        scale = min(W / picture["width"], H / picture["height"])
        people = np.zeros((len(labels[picture["id"]]), K, 3))
        people[:, :17] = labels[picture["id"]]
        people[:, :17, :2] = (people[:, :17, :2] + 0.5) * scale - 0.5
        for name, (a, b) in {"neck": (5, 6), "pelvis": (11, 12)}.items():
            people[:, INDEX_2D[name], :2] = (people[:, a, :2] + people[:, b, :2]) / 2
            people[:, INDEX_2D[name], 2] = np.minimum(people[:, a, 2], people[:, b, 2])
        to_image = TO_INPUT / scale
        to_image[:, 2] += 0.5 / scale - 0.5
        output = NetworkOutput(*draw(people, H, W), to_image)
        for found in group(output, GroupingConfig()):
            seen = found.confidence[:17, None] > 0
            points = np.where(seen, np.c_[np.nan_to_num(found.joints_px[:17]), np.ones(17)], 0)
            results.append(
                {"image_id": picture["id"], "category_id": 1, "score": found.score,
                 "keypoints": points.ravel().tolist()}
            )  # fmt: skip
    assert coco_ap(results, truth)["AP"] >= 0.88
