from __future__ import annotations

import numpy as np
import pytest

from manypose.app.viewer.figure import figures, shadows
from manypose.app.viewer.space import (
    NOBODY,
    Bodies,
    Orbit,
    Room,
    body_height_m,
    grid_lines,
)
from manypose.calib.camera import Camera
from manypose.pose.joints import INDEX, JOINTS, JOINTS_2D, SEEN
from manypose.pose.records import TrackedPerson

CAMERA = Camera.from_fov(640, 480, 60)


def standing(x_m: float, z_m: float, pitch_deg: float = 0.0) -> TrackedPerson:
    """Return somebody 1.7 m tall whose soles are 1.4 m below a camera pitched down."""
    y = {"head_top": -0.3, "head": -0.18, "neck": -0.05, "spine": 0.25, "pelvis": 0.5}
    y |= {"hip": 0.5, "knee": 0.9, "ankle": 1.31, "foot": 1.37, "shoulder": -0.02}
    y |= {"elbow": 0.28, "wrist": 0.52, "hand": 0.6}
    joints = np.array(
        [(x_m + 0.1 * (n[:2] == "l_"), y[n[2:] if n[1] == "_" else n], z_m) for n in JOINTS]
    )
    c, s = np.cos(np.radians(pitch_deg)), np.sin(np.radians(pitch_deg))
    joints = joints @ np.array([[1, 0, 0], [0, c, -s], [0, s, c]]).T
    state = np.full(len(JOINTS), SEEN, np.uint8)
    px = np.full((len(JOINTS_2D), 2), 50.0)
    return TrackedPerson(1, 0.9, px, np.ones(len(px)), joints, state, np.zeros(4))


@pytest.mark.parametrize("pitch_deg", [0.0, 12.0, 25.0])
def test_people_stand_upright_on_the_floor_whatever_the_camera_looks_at(pitch_deg: float) -> None:
    room = Room()
    for k in range(60):
        people = [standing(-1, 3, pitch_deg), standing(1, 5, pitch_deg)]
        bodies = room.bodies(people, CAMERA, k / 30)
    for joints in bodies.joints_m:
        lean = joints[INDEX["neck"]] - joints[INDEX["l_ankle"]]
        assert np.degrees(np.arccos(lean[2] / np.linalg.norm(lean))) < 4
        assert abs(joints[INDEX["l_foot"], 2] - 0.03) < 0.15
    assert bodies.joints_m[1, 0, 1] > bodies.joints_m[0, 0, 1]  # the farther one is behind


def test_a_known_vertical_is_taken_before_how_people_stand() -> None:
    room, up = Room(), -np.array([0.0, np.cos(0.35), np.sin(0.35)])
    leaning = [standing(0, 4, pitch_deg=-10)]  # bows towards the camera, which looks down
    for k in range(60):
        shown = room.bodies(leaning, CAMERA, k / 30, up).joints_m[0]
    seen = leaning[0].joints_m
    height = shown[INDEX["neck"], 2] - shown[INDEX["l_ankle"], 2]
    assert height == pytest.approx((seen[INDEX["neck"]] - seen[INDEX["l_ankle"]]) @ up, abs=1e-3)


def test_known_extrinsics_are_taken_as_they_are() -> None:
    # a world with y up, its floor at y = 0, the camera 2 m above it, looking along -z
    R, t = np.diag([1.0, -1, -1]), np.array([0.0, 2.0, 0.0])
    camera = Camera(CAMERA.K, 640, 480, R=R, t=t)
    person = standing(0, 4)
    shown = Room().bodies([person], camera, 0.0).joints_m[0]
    world = camera.camera_to_world(person.joints_m)
    np.testing.assert_allclose(shown[:, 2], world[:, 1], atol=1e-9)
    np.testing.assert_allclose(shown[:, 1], -world[:, 2], atol=1e-9)


def test_somebody_lying_down_does_not_turn_the_room() -> None:
    room = Room()
    for k in range(30):
        room.bodies([standing(0, 4)], CAMERA, k / 30)
    before = room.bodies([standing(0, 4)], CAMERA, 1.0).joints_m
    for k in range(30):
        room.bodies([standing(0, 4, pitch_deg=85)], CAMERA, 1 + k / 30)
    np.testing.assert_allclose(
        room.bodies([standing(0, 4)], CAMERA, 2.1).joints_m, before, atol=0.3
    )


def test_the_orbit_keeps_everybody_in_view() -> None:
    orbit, room = Orbit(), Room()
    bodies = room.bodies([standing(x, 4 + x) for x in (-2, 0, 2)], CAMERA, 0.0)
    orbit.frame(bodies, 0.1)
    for turn in (0, 90, 200, 300):
        orbit.turn(turn, 3)
        orbit.frame(bodies, 10.0)
        px = orbit.project(bodies.joints_m, 600, 500)
        assert np.nanmin(px[..., 0]) > 0
        assert np.nanmax(px[..., 0]) < 600
        assert np.nanmin(px[..., 1]) > 0
        assert np.nanmax(px[..., 1]) < 500


def test_what_is_behind_the_eye_is_not_projected() -> None:
    orbit = Orbit()
    _, _, back = orbit.axes()
    behind = orbit.target + back * (orbit.eye_distance + 1)
    assert np.isnan(orbit.project(behind, 100, 100)).all()
    ahead = orbit.project(orbit.target, 100, 100)
    np.testing.assert_allclose(ahead, [50, 50, orbit.eye_distance])


def test_figures_leave_out_missing_joints() -> None:
    joints = standing(0, 4).joints_m.copy()
    state = np.full((1, len(JOINTS)), SEEN, np.uint8)
    whole = figures(Bodies(joints[None], state, (3,)))
    joints[INDEX["l_wrist"]] = np.nan
    holed = figures(Bodies(joints[None], state, (3,)))
    for vertices, faces, colours in (whole, holed):
        assert np.isfinite(vertices).all()
        assert faces.max() == len(vertices) - 1
        assert len(colours) == len(vertices)
        assert 0 <= colours.min() <= colours.max() <= 1
    assert len(holed[0]) < len(whole[0])
    assert len(figures(NOBODY)[0]) == 0
    assert len(shadows(Bodies(joints[None], state, (3,)))) % 2 == 0


def test_the_grid_lies_at_whole_metres() -> None:
    points, opacity = grid_lines(np.array([1.4, 3.6, 0.9]))
    assert np.all(points == np.round(points))
    assert len(points) == len(opacity)
    assert opacity.max() <= 1


def test_body_height_is_that_of_the_bones() -> None:
    assert body_height_m(standing(0, 4).joints_m) == pytest.approx(1.7, abs=0.03)
    missing = standing(0, 4).joints_m.copy()
    missing[INDEX["neck"]] = np.nan
    assert np.isnan(body_height_m(missing))
