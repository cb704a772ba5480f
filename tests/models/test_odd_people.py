"""What the program makes of odd people: maps, grouping, the shipped Stage II, fit and filters."""

import functools

import numpy as np
import pytest

from manypose.calib.camera import Camera
from manypose.models.lifter_runtime import load_lifter
from manypose.pose import skeleton as sk
from manypose.pose import targets
from manypose.pose.detector import Detector, heatmap_front_end
from manypose.pose.estimator import Estimator, Follower
from manypose.pose.joints import INDEX, JOINTS_2D, MISSING, PARENT, SEEN
from manypose.pose.lifting import lift
from manypose.pose.records import Frame, NetworkOutput
from tests.pose.test_estimator import HEIGHT, WIDTH, scene

UP = [p if p >= 0 else j for j, p in enumerate(PARENT)]
FACE = [
    k for k, name in enumerate(JOINTS_2D) if name in ("nose", "l_eye", "r_eye", "l_ear", "r_ear")
]
CAMERA = Camera.from_fov(WIDTH, HEIGHT, 60, source="calibrated")


def answers(points, times=None, only=None, spoil=None):
    """Results for points (F, P, 26, 3), seen through maps drawn of them."""

    def network(frames):
        out = []
        for frame in frames:
            x = points[frame.index]
            px = CAMERA.camera_to_image(sk.marks(x))
            inside = (px > 0).all(-1) & (px < (WIDTH, HEIGHT)).all(-1)
            if only is not None:
                inside &= np.isin(np.arange(len(JOINTS_2D)), only)
            labelled = np.concatenate([px, inside[..., None]], -1)
            maps = [
                m.astype(np.float32)
                for m in targets.draw(labelled, HEIGHT, WIDTH, x[:, :21] - x[:, UP])
            ]
            if spoil is not None:
                spoil(frame.index, *maps)
            out.append(NetworkOutput(*maps, np.array([[8, 0, 3.5], [0, 8, 3.5]])))
        return out

    detector = Detector(heatmap_front_end(network), functools.partial(lift, lifter=load_lifter()))
    estimator = Estimator(detector, Follower())
    image = np.zeros((HEIGHT, WIDTH, 3), np.uint8)
    t = np.arange(len(points)) / 30 if times is None else times
    return [estimator(Frame(image, float(t[n]), n, CAMERA)) for n in range(len(points))]


def human(results, whole=False):
    """Every pose shown is a body that can be: its bones, its joints' ranges, its place."""
    shown = 0
    for result in results:
        for p in result.people:
            shown += 1
            there = np.isfinite(p.joints_m).all(-1)
            assert (there == (p.state != MISSING)).all()
            assert there.all() or not whole
            assert 0.2 < p.joints_m[there, 2].min() < 30
            both = there & there[UP] & (np.array(PARENT) >= 0)
            ratio = np.linalg.norm(p.joints_m - p.joints_m[UP], axis=-1)[both]
            ratio = ratio / sk.AVERAGE_LENGTHS_M[both]
            assert 0.6 < ratio.min() <= ratio.max() < 1.5
            c = sk.coordinates(p.rotations[None])[0]
            assert (c > sk.DOF_LOW - 0.35).all()
            assert (c < sk.DOF_HIGH + 0.35).all()
    return shown


def relative_error(person, points):
    e = person.joints_m - points[:21]
    return float(np.nanmean(np.linalg.norm(e - e[INDEX["pelvis"]], axis=-1)))


def test_nobody():
    assert all(r.people == () for r in answers(np.zeros((6, 0, 26, 3))))


@pytest.mark.parametrize("shift", [(0, 0.6, -2.6), (2.2, 0, -1.2), (0, -0.6, -2.6)])
def test_cut_at_the_edge(shift):
    """Legs below the picture; half a body beyond the side; head and chest above."""
    results = answers(scene(10, 1) + np.array(shift))
    assert human(results) >= 4
    assert len(results[-1].people) == 1


def test_only_a_head():
    results = answers(scene(10, 1), only=FACE)
    human(results)
    for result in results:
        for person in result.people:
            assert person.state[INDEX["head"]] == SEEN
            assert person.state[INDEX["l_ankle"]] == MISSING


def test_upside_down():
    points = scene(10, 1)
    centre = points[:, :, [INDEX["pelvis"]]]
    points = centre + (points - centre) * [-1, -1, 1]
    results = answers(points)
    human(results, whole=True)
    assert relative_error(results[-1].people[0], points[-1, 0]) < 0.12


def test_a_gap_of_300_ms_and_times_that_go_back():
    points = scene(24, 2)
    times = np.r_[np.arange(12), np.arange(21, 27), np.arange(15, 21)] / 30
    results = answers(points, times)
    human(results, whole=True)
    assert [p.track_id for p in results[-1].people] == [0, 1]
    for p in results[13].people:  # right behind the gap
        errors = [relative_error(p, x) for x in points[13]]
        assert min(errors) < 0.1


@pytest.mark.parametrize("value", [np.nan, 1e30])
@pytest.mark.parametrize("which", [0, 1, 2])
def test_a_network_gone_wrong_in_some_places(value, which):
    def spoil(index, *maps):
        if index % 3 == 0:
            maps[which][:, 10:30, 20:50] = value

    results = answers(scene(9, 2), spoil=spoil)
    human(results)
    assert len(results[-1].people) >= 1
