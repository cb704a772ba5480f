import numpy as np
import pytest

from manypose.models.portraits import shown
from manypose.pose import portraits
from manypose.pose.joints import INDEX_2D, JOINTS_2D
from manypose.pose.portraits import HEIGHT, STRIDE, WIDTH
from manypose.pose.records import Person2D

K = len(JOINTS_2D)


def someone(points, score=0.8):
    """Return a person with these joints by name, px."""
    joints, confidence = np.full((K, 2), np.nan), np.zeros(K)
    for name, xy in points.items():
        joints[INDEX_2D[name]] = xy
        confidence[INDEX_2D[name]] = 0.9
    return Person2D(joints, confidence, score)


def standing(x=200.0, y=100.0, tall=200.0, score=0.8):
    points = {
        "nose": (0, 0.07), "l_shoulder": (0.11, 0.18), "r_shoulder": (-0.11, 0.18),
        "l_hip": (0.065, 0.5), "r_hip": (-0.065, 0.5), "l_ankle": (0.07, 0.96),
        "r_ankle": (-0.07, 0.96),
    }  # fmt: skip
    return someone({k: (x + tall * a, y + tall * b) for k, (a, b) in points.items()}, score)


def blob(width, height, at, radius):
    x = np.arange(width) - at[0]
    y = np.arange(height)[:, None] - at[1]
    light = 255 * np.exp(-0.5 * (x**2 + y**2) / radius**2)
    return np.repeat(light[..., None], 3, 2).astype(np.uint8)


@pytest.mark.parametrize(
    "box",
    [(220.0, 60, 341, 371), (-60, -30, 90, 170), (500, 300, 700, 520), (300.5, 180, 331, 240)],
)
def test_a_point_of_the_picture_is_where_its_portrait_shows_it(box):
    width, height = 640, 480
    part = portraits.seen_in(np.array(box), width, height)
    x0, y0, x1, y1 = part.part
    at = (x0 + 0.45 * (x1 - x0), y0 + 0.6 * (y1 - y0))
    image = blob(width, height, at, 0.06 * (box[3] - box[1]))
    small = shown(image, [part])[0]
    assert small.shape == (HEIGHT, WIDTH, 3)
    light = small.astype(float)[..., 0] * (small[..., 0] != 114)
    h, w = HEIGHT // STRIDE, WIDTH // STRIDE
    maps = light.reshape(h, STRIDE, w, STRIDE).mean((1, 3)) / 255
    joints, sure = portraits.read(np.repeat(maps[None, None], K, 1), [part])
    np.testing.assert_allclose(joints[0], np.tile(at, (K, 1)), atol=0.02 * (box[3] - box[1]))
    assert (sure > 0.5).all()


def test_a_box_beside_the_picture_has_no_portrait():
    assert portraits.seen_in(np.array([900.0, 0, 1000, 200]), 640, 480) is None
    assert portraits.seen_in(np.array([-300.0, 0, -200, 100]), 640, 480) is None


def test_a_box_shows_all_joints_and_of_somebody_half_read_what_must_be_there():
    whole = portraits.boxes([standing()])[0]
    points = standing().joints_px
    assert (np.nanmin(points, 0) > whole[:2]).all()
    assert (np.nanmax(points, 0) < whole[2:]).all()
    head = someone({"nose": (100, 100), "l_eye": (104, 96), "l_ear": (110, 98)})
    face = portraits.boxes([head])[0]
    assert (face[2:] - face[:2]).min() > 3 * 10  # ears and nose are ten px apart


def test_who_shows_too_few_joints_is_nobody():
    joints, sure = np.zeros((K, 2)), np.full(K, 0.1)
    assert portraits.person(joints, sure) is None
    sure[:2] = 0.9
    assert portraits.person(joints, sure) is None
    sure[:5] = 0.9
    found = portraits.person(joints, sure)
    assert (found.confidence > 0).sum() == 5
    assert np.isnan(found.joints_px[5:]).all()


def test_surer_and_fuller_people_score_higher():
    joints = np.zeros((K, 2))
    scores = [
        portraits.person(joints, np.where(np.arange(K) < n, sure, 0.05)).score
        for n, sure in ((6, 0.5), (17, 0.5), (17, 0.9))
    ]
    assert scores == sorted(scores)
    assert scores[-1] <= 1


def test_a_person_read_twice_is_kept_once():
    one, near, other = standing(), standing(x=202), standing(x=300)
    weak = Person2D(near.joints_px, near.confidence, 0.5)
    kept = portraits.distinct([weak, one, other])
    assert [p.score for p in kept] == [0.8, 0.8]
    assert not any(p is weak for p in kept)


def test_joints_of_somebody_better_are_not_those_of_another():
    front, behind = standing(score=0.9), standing(x=240, score=0.5)
    legs = [INDEX_2D[n] for n in ("l_hip", "r_hip", "l_ankle", "r_ankle")]
    joints = behind.joints_px.copy()
    joints[legs[2:]] = front.joints_px[legs[2:]] + 2
    mixed = Person2D(joints, behind.confidence, 0.5, np.ones((K, 63)))
    first, second = portraits.distinct([mixed, front])
    assert first is front
    assert (second.confidence[legs[2:]] == 0).all()
    assert np.isnan(second.encoding[legs[2:]]).all()
    assert (second.confidence > 0).sum() == (behind.confidence > 0).sum() - 2
    joints[legs] = front.joints_px[legs] + 2
    joints[INDEX_2D["nose"]] = front.joints_px[INDEX_2D["nose"]]
    most = Person2D(joints, behind.confidence, 0.5)
    assert portraits.distinct([most, front]) == [front]


def test_of_many_the_largest_are_looked_at_who_are_not_unlikely():
    people = [standing(tall=t, score=s) for t, s in ((90, 0.8), (200, 0.7), (150, 0.2), (120, 0.9))]
    corners = portraits.boxes(people)
    assert portraits.worth(people, corners, 9) == [0, 1, 3]
    assert portraits.worth(people, corners, 2) == [1, 3]
    assert portraits.worth(people, corners) == [0, 1, 2, 3]


def test_clues_are_where_the_joints_are_and_those_of_others_apart():
    one, two, far = standing(x=260, y=120), standing(x=290, y=130), standing(x=20)
    parts = [portraits.seen_in(portraits.boxes([p])[0], 640, 480) for p in (one, two)]
    maps = portraits.clues(parts, [one, two, far], [0, 1])
    told = one.confidence > 0
    for n, person in enumerate((one, two, two, one)):  # each of themselves, then of the other
        shown = maps[n % 2][:K] if n < 2 else maps[n % 2][K:]
        joints, sure = portraits.read(shown[None] / 255, [parts[n % 2]])
        assert (shown.max((1, 2)) > 0).tolist() == told.tolist()
        np.testing.assert_allclose(joints[0][told], person.joints_px[told], atol=1)
        assert ((sure[0][told] > 0.7) & (sure[0][told] < 0.91)).all()  # between two cells less
    alone = portraits.clues(parts[:1], [one, far], [0])
    assert alone[:, K:].max() == 0
    assert portraits.clues(parts, [], [0, 0]).shape == maps.shape
    assert portraits.clues(parts, [], [0, 0]).max() == 0


def test_only_boxes_that_show_something_else_are_looked_at_again():
    before = np.array([[0.0, 0, 100, 100], [0, 0, 100, 100]])
    after = np.array([[5.0, 0, 100, 102], [0, 0, 100, 200]])
    assert not portraits.moved(before, after).any()
    after[1, 3] = 210
    assert portraits.moved(before, after).tolist() == [False, True]


def test_looks_that_are_left_go_to_those_who_moved_then_to_the_largest():
    boxes = np.array([[0.0, 0, 10, 10], [0, 0, 90, 90], [0, 0, 20, 20], [0, 0, 80, 80]])
    moved = np.array([True, False, False])
    assert portraits.next_looks([0, 2, 3], boxes, moved, 2) == [0, 3]
    assert portraits.next_looks([0, 2, 3], boxes, moved, -1) == [0]
    assert portraits.next_looks([0, 2, 3], boxes, ~moved, 0) == [2, 3]
    assert portraits.next_looks([1, 2], boxes, moved[1:], 0) == []


def test_later_looks_are_from_nearer():
    near = portraits.closer(np.array([[10.0, 20, 110, 220]]))
    np.testing.assert_allclose(near, [[20, 40, 100, 200]])
