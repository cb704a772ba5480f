import dataclasses

import numpy as np
import pytest

from manypose.calib.camera import Camera
from manypose.pose.estimator import Follower, FollowerConfig
from manypose.pose.joints import INDEX, JOINTS, JOINTS_2D
from manypose.pose.records import Detections, Frame, Person2D, unlifted
from manypose.pose.vertical import Vertical, camera_pitch, to_y_up, up_of


def _walk(pitch_deg, seconds=6.0, people=3, height_m=2.2, seed=0, slope=0.0):
    """Yield time, pelves and necks by number, of people on a floor before a pitched camera.

    slope: how much higher a pelvis is a metre farther away, as on stairs.
    """
    rng = np.random.default_rng(seed)
    pitch = np.radians(pitch_deg)
    to_camera = np.array([[1, 0, 0], [0, np.cos(pitch), -np.sin(pitch)],
                          [0, np.sin(pitch), np.cos(pitch)]])  # fmt: skip
    size = 1 + rng.normal(0, 0.05, people)
    for n in range(int(seconds * 30)):
        t = n / 30
        far = 3.5 + 0.8 * np.arange(people) + 1.2 * np.sin(t + np.arange(people))
        side = np.linspace(-1, 1, people) + 0.3 * np.sin(0.7 * t)
        high = height_m - 0.95 - slope * far + 0.03 * np.sin(9 * t + np.arange(people))
        level = np.stack([side, high, far], 1)
        roots = level @ to_camera.T * (size * (1 + rng.normal(0, 0.02, people)))[:, None]
        lean = 0.5 * pitch if not slope else 0.0  # Stage II believes half of it
        necks = np.tile(0.5 * up_of(lean), (people, 1))
        yield t, dict(enumerate(roots)), dict(enumerate(necks))


def _pitch_deg(up):
    return np.degrees(np.arctan2(-up[2], -up[1]))


@pytest.mark.parametrize("pitch_deg", [-5, 5, 20, 40])
def test_it_learns_how_far_a_camera_looks_down(pitch_deg):
    vertical = Vertical()
    assert vertical.up is None
    ups = []
    for now, roots, necks in _walk(pitch_deg):
        vertical.learn(roots, necks, now)
        ups.append(vertical.up)
    assert _pitch_deg(vertical.up) == pytest.approx(pitch_deg, abs=3)
    assert vertical.up[0] == 0
    known = np.array([u for u in ups if u is not None])
    assert 0 < len(known) < len(ups)
    turned = np.degrees(np.arccos(np.clip((known[1:] * known[:-1]).sum(1), -1, 1)))
    assert turned.max() < 0.5  # nobody is turned over at once


def test_rows_of_seats_are_no_floor():
    vertical = Vertical()
    for now, roots, necks in _walk(0, slope=0.5):
        vertical.learn(roots, necks, now)
    assert vertical.up is None


def test_people_who_stay_where_they_are_tell_nothing():
    vertical = Vertical()
    still = {n: np.array([n - 1.0, 0.3, 3.0 + n]) for n in range(3)}
    for n in range(300):
        vertical.learn(still, dict.fromkeys(still, up_of(0.1)), n / 30)
    assert vertical.up is None


def test_a_cut_and_unreadable_people_are_forgotten():
    vertical = Vertical()
    for now, roots, necks in _walk(20):
        vertical.learn(roots | {9: np.full(3, np.nan)}, necks | {9: np.full(3, np.nan)}, now)
    assert vertical.up is not None
    vertical.forget()
    assert vertical.up is None


def test_later_people_say_it_when_the_camera_has_been_turned():
    vertical = Vertical()
    for now, roots, necks in _walk(10):
        vertical.learn(roots, necks, now)
    for now, roots, necks in _walk(35, seconds=40, seed=1):
        vertical.learn({n + 5: r for n, r in roots.items()},
                       {n + 5: k for n, k in necks.items()}, 6 + now)  # fmt: skip
    assert _pitch_deg(vertical.up) == pytest.approx(35, abs=4)


def test_sizes_of_people_are_not_taken_for_a_slope():
    """A child taken for a grown-up is farther away than it seems, and as far below the camera."""
    roots = np.array([s * np.array([x, 1.2, z]) for s, zs in ((1.0, (3, 4, 5)), (1.3, (3, 4, 5)))
                      for x, z in zip((-1, 0, 1), zs)])  # fmt: skip
    numbers = np.repeat([4, 7], 3)
    level, _ = camera_pitch(roots, numbers)
    assert abs(np.degrees(level)) < 2


def test_photographs_are_lifted_with_what_their_people_tell_of_the_camera():
    """Of several people in one picture; one alone tells nothing."""
    told = []

    def lift(people, camera, up=None):
        told.append(up)
        return [
            dataclasses.replace(p, joints_rel_m=rel, sigma_m=np.full(len(JOINTS), 0.05),
                                root_m=root, root_sigma_m=0.2)
            for p, rel, root in zip(map(unlifted, people), rels, roots)
        ]  # fmt: skip

    camera = Camera.from_fov(640, 400)
    _, pelves, necks = next(_walk(25, people=5))
    roots, rels = list(pelves.values()), []
    for neck in necks.values():
        rels.append(np.outer(np.linspace(-0.6, 0.8, len(JOINTS)), -neck))
        rels[-1][INDEX["neck"]] = neck
    px = camera.camera_to_image(np.array(roots))[:, None] + np.random.default_rng(0).normal(
        0, 20, (5, len(JOINTS_2D), 2)
    )
    seen = [Person2D(p, np.full(len(JOINTS_2D), 0.9), 0.9) for p in px]
    frame = Frame(np.zeros((400, 640, 3), np.uint8), 0.0, 0, camera)
    follower = Follower(FollowerConfig(still=True), lift)
    follower(Detections(frame, tuple(map(unlifted, seen))))
    assert told[0] is None
    assert _pitch_deg(told[1]) > 12
    told.clear()
    follower(Detections(frame, (unlifted(seen[0]),)))
    assert told == [None]
    told.clear()
    placed = dataclasses.replace(camera, R=np.diag([1.0, -1.0, -1.0]), t=np.ones(3))
    follower(Detections(dataclasses.replace(frame, camera=placed), tuple(map(unlifted, seen))))
    assert told == [None]  # the camera says it itself


def test_axes_with_y_up_are_right_handed_and_have_up_upwards():
    np.testing.assert_array_equal(to_y_up(None), np.diag([1.0, -1, -1]))
    for up in (
        up_of(0.3),
        up_of(-0.2),
        np.array([0.2, -0.9, -0.3]) / np.linalg.norm([0.2, 0.9, 0.3]),
    ):
        turn = to_y_up(up)
        np.testing.assert_allclose(turn @ up, [0, 1, 0], atol=1e-9)
        np.testing.assert_allclose(turn @ turn.T, np.eye(3), atol=1e-9)
        assert np.linalg.det(turn) == pytest.approx(1)
    np.testing.assert_allclose(to_y_up(up_of(0.3))[0], [1, 0, 0], atol=1e-9)
