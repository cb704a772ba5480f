"""What a look at each person is worth in the sample clip, where people cross and its truth is."""

import itertools
import sys
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
from scipy.optimize import linear_sum_assignment

from manypose.app.config import load_config
from manypose.app.sources import open_source
from manypose.models.front_end import load_front_end
from manypose.models.portraits import Portraits, load_portraits
from manypose.models.sessions import Wish, open_session
from manypose.pose import portraits
from manypose.pose.joints import INDEX_2D, JOINTS_2D

ROOT = Path(__file__).parents[2]
TRUTH = np.load(ROOT / "tests" / "golden" / "sample_truth.npz")
EVERY = 4  # frames
NEAR_PX = 30.0


def readings(people, joints_px):
    """Return what is read of each true person (P, K, 2), NaN where nothing is."""
    out = np.full(joints_px.shape, np.nan)
    if not people:
        return out
    px = np.array([p.joints_px for p in people], float)
    off = np.linalg.norm(px[None] - joints_px[:, None], axis=-1)
    cost = np.minimum(np.where(np.isnan(off), NEAR_PX, off), NEAR_PX).mean(-1)
    for a, b in zip(*linear_sum_assignment(cost)):
        if cost[a, b] < 0.7 * NEAR_PX:
            out[a] = px[b]
    return out


@pytest.fixture(scope="module")
def seen():
    """Return true joints, which are in sight, and both readings (T, P, K, 2) of the sample clip."""
    front_end = load_front_end("light", "openvino", "cpu", 1, "int8", long_shots=True)
    network = load_portraits("openvino", "cpu", 1, "int8")
    true, first, second = TRUTH["joints_px"][::EVERY], [], []
    with open_source(str(ROOT / "app" / "sample.mp4"), load_config()) as clip:
        for frame in clip:
            if frame.index % EVERY:
                continue
            people = front_end([frame])[0].people
            again = network(frame.picture, people, *frame.shape[::-1])
            joints = TRUTH["joints_px"][frame.index]
            first.append(readings(people, joints))
            second.append(readings(again, joints))
    return true, TRUTH["seen"][::EVERY] > 0, np.array(first), np.array(second)


@pytest.mark.slow
def test_joints_come_nearer_to_the_truth_and_more_are_read(seen):
    true, there, *both = seen
    off = [np.linalg.norm(r - true, axis=-1)[there] for r in both]
    mean, far, read = zip(
        *((np.nanmean(o), np.nanmean(o > NEAR_PX), np.isfinite(o).mean()) for o in off)
    )
    for name, n in (("first reading", 0), ("portraits", 1)):
        sys.stdout.write(
            f"\n{name}: {mean[n]:.1f} px off, {far[n]:.1%} by more than {NEAR_PX:.0f} px, "
            f"{read[n]:.0%} of the joints in sight read\n"
        )
    assert mean[1] < 0.95 * mean[0]
    assert far[1] < far[0]
    assert read[1] > read[0] - 0.01


@pytest.mark.slow
def test_people_who_cross_are_not_mixed_more_than_in_the_first_reading(seen):
    true, _, *both = seen
    shares = []
    for reading in both:
        off = np.linalg.norm(reading[:, :, None] - true[:, None], axis=-1)  # (T, read, true, K)
        people = np.arange(true.shape[1])
        own = off[:, people, people].copy()
        off[:, people, people] = np.inf
        mixed = (off.min(2) < 0.5 * own) & (own > 0.4 * NEAR_PX)
        shares.append(mixed.sum() / np.isfinite(own).sum())
    sys.stdout.write(f"\nof somebody else: {shares[0]:.1%}, with portraits {shares[1]:.1%}\n")
    assert shares[1] < shares[0] < 0.05


@pytest.mark.parametrize("lanes", [1, 2])
def test_portraits_in_requests_of_four_two_and_one_are_read_as_one_by_one(lanes):
    file = ROOT / "weights" / "portrait_int8.xml"
    rng = np.random.default_rng(4)
    shown = rng.integers(0, 255, (11, portraits.SHEET_HEIGHT, portraits.WIDTH, 3), np.uint8)
    alone = open_session(file, "openvino", Wish("cpu", lanes))
    four = open_session(file, "openvino", Wish("cpu", lanes, batch=lanes, together=4))
    for name, answers in four.run(shown).items():
        wanted = np.concatenate([alone.run(shown[i : i + 1])[name] for i in range(len(shown))])
        np.testing.assert_allclose(answers, wanted, atol=1e-3, err_msg=name)


def test_a_second_look_is_told_what_the_first_showed():
    front_end = load_front_end("light", "openvino", "cpu", 1, "int8")
    with open_source(str(ROOT / "app" / "sample.mp4"), load_config()) as clip:
        frame = next(itertools.islice(clip, 40, None))
    person = max(front_end([frame])[0].people, key=lambda p: p.score)
    above = [INDEX_2D[n] for n in ("nose", "l_eye", "r_eye", "neck", "l_shoulder", "r_shoulder")]
    chest = np.isin(np.arange(len(JOINTS_2D)), above)  # all that the first reading shows of them
    confidence = np.where(chest, person.confidence, 0)
    person = replace(person, joints_px=np.where(chest[:, None], person.joints_px, np.nan),
                     confidence=confidence)  # fmt: skip
    read = open_session(ROOT / "weights" / "portrait_int8.xml", "openvino", Wish("cpu", 1)).run
    clues = []

    def answer(sheets):
        clues.append(portraits.unfolded(sheets)[1])
        return read(sheets)

    (found,) = Portraits(answer, looks=2)(frame.picture, [person], *frame.shape[::-1])
    own = [c[0, : len(JOINTS_2D)].reshape(len(JOINTS_2D), -1).max(1) > 0 for c in clues]
    assert len(own) == 2
    assert not own[0][~chest].any()
    assert own[1][~chest].sum() > 5
    assert (found.confidence > 0).sum() > 12
    assert len(Portraits(answer)(frame.picture, [person], *frame.shape[::-1])) == 1
    assert len(clues) == 3, "who is where they were is not looked at again"
    assert len(Portraits(answer, looks=100)(frame.picture, [person], *frame.shape[::-1])) == 1
    assert len(clues) == 6, "three looks at the most"
    own = [c[0, : len(JOINTS_2D)].reshape(len(JOINTS_2D), -1).max(1) > 0 for c in clues]
    assert own[4][~chest].sum() > 5
    assert not own[5][~chest].any(), "the third is told what the whole picture showed"


def test_somebody_before_the_camera_whom_nobody_saw_is_read_in_the_middle():
    with open_source(str(ROOT / "app" / "sample.mp4"), load_config()) as clip:
        frame = next(itertools.islice(clip, 40, None))
    joints = TRUTH["joints_px"][40]
    chest = [INDEX_2D[n] for n in ("nose", "neck", "l_shoulder", "r_shoulder")]
    wide = np.hypot(*(joints[:, chest[2]] - joints[:, chest[3]]).T)
    true = joints[wide.argmax()]
    scale = 400 / (2.6 * wide.max())
    to = np.array(
        [[scale, 0, 320 - scale * true[chest[1], 0]], [0, scale, 190 - scale * true[chest[1], 1]]]
    )
    picture = cv2.warpAffine(np.asarray(frame.image), to, (640, 400))
    answer = open_session(ROOT / "weights" / "portrait_int8.xml", "openvino", Wish("cpu", 1)).run
    assert Portraits(answer)(picture, [], 640, 400) == []
    (found,) = Portraits(answer, close_ups=True)(picture, [], 640, 400)
    off = np.hypot(*(found.joints_px - true @ to[:, :2].T - to[:, 2]).T)[chest]
    assert off.max() < 0.25 * scale * wide.max()
    assert Portraits(answer, close_ups=True)(np.full_like(picture, 114), [], 640, 400) == []
