from dataclasses import replace

import numpy as np
import pytest

from manypose.errors import UsageError
from manypose.models.train import faults, scores
from manypose.models.train.figures import figures
from manypose.models.train.sightings import ErrorModel
from manypose.pose.joints import INDEX_2D, OKS_SIGMAS

W, H = 256, 160


def _moved(item, rng, spread, swap):
    """Displace every joint by the noise that `ErrorModel.spread` means; exchange some ankles."""
    joints = item.joints_px.copy()
    for person in joints:
        extent = np.ptp(person[person[:, 2] > 0, :2], 0).max()
        noise = (
            rng.normal(size=(len(person), 2))
            * (spread * np.array(OKS_SIGMAS) * extent / 2)[:, None]
        )
        person[:, :2] += noise
        if rng.random() < swap:
            ankles = [INDEX_2D["l_ankle"], INDEX_2D["r_ankle"]]
            person[ankles] = person[ankles[::-1]]
    return replace(item, joints_px=joints)


def _measured(spread, swap=0.0):
    rng = np.random.default_rng(0)
    photos = figures(40, W, H)
    moved = {p.key: _moved(p, rng, spread, swap) for p in photos}
    perfect = scores.of_labels(W, H)
    return faults.measure(photos, lambda some: perfect([moved[p.key] for p in some]))


def test_perfect_maps_have_hardly_any_faults():
    found = _measured(0.0)
    assert found.spread < 0.5
    assert found.missed < 0.06
    assert found.swapped < 0.01
    assert found.gross < 0.02


@pytest.mark.slow
def test_known_noise_and_exchanged_ankles_are_found_again(tmp_path):
    still, noisy = _measured(0.0), _measured(1.5, swap=0.5)
    assert noisy.spread == pytest.approx(1.5, rel=0.25)
    assert noisy.difficulty < 0.4
    assert noisy.swapped > still.swapped + 0.02
    noisy.write(tmp_path / "e.json")
    assert ErrorModel.read(tmp_path / "e.json") == noisy


def test_too_few_people_tell_nothing():
    photos = figures(2, W, H)
    with pytest.raises(UsageError, match="more photos"):
        faults.measure(photos, scores.of_labels(W, H))
