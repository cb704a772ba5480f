from __future__ import annotations

from itertools import islice
from pathlib import Path

import cv2
import numpy as np
import pytest

from manypose.app.config import load_config
from manypose.app.sources import open_source
from manypose.calib.camera import Camera
from manypose.models.front_end import load_front_end
from manypose.pose.records import Frame

SAMPLE = Path(__file__).parents[2] / "app" / "sample.mp4"


@pytest.fixture(scope="module")
def far() -> list[Frame]:
    """The people of the sample clip from afar: its pictures fill a fifth of larger ones."""
    with open_source(str(SAMPLE), load_config()) as source:
        pictures = [f.image for f in islice(source, 0, 160, 20)]
    frames = []
    for n, picture in enumerate(pictures):
        small = cv2.resize(picture, (384, 216), interpolation=cv2.INTER_AREA)
        image = cv2.resize(picture[:8, :8], (1920, 1080))  # of the wall
        image[400:616, 700:1084] = small
        frames.append(Frame(image, n / 30, n, Camera.from_fov(1920, 1080)))
    return frames


def test_people_far_away_are_found_at_a_second_look(far: list[Frame]) -> None:
    once = load_front_end("light", "auto", "cpu", 1)
    twice = load_front_end("light", "auto", "cpu", 1, long_shots=True)
    sure = {
        looks: [[p for p in found.people if p.score >= 0.4] for found in front_end(far)]
        for looks, front_end in ((1, once), (2, twice))
    }
    few, many = (sum(map(len, sure[looks])) for looks in (1, 2))
    assert many >= 1.5 * few
    assert many >= 2 * len(far)
    for people in sure[2]:
        for person in people:
            at = person.joints_px[person.confidence > 0].mean(0)
            assert (at > (690, 390)).all()
            assert (at < (1094, 626)).all()
    [first] = twice(far[:1])
    assert first.stage_ms.keys() == {"resize", "network", "group"}


def test_it_is_not_taken_where_the_rate_or_other_looks_come_first(far: list[Frame]) -> None:
    for wish in ({"target_fps": 30.0}, {"careful": True}):
        plain = load_front_end("light", "auto", "cpu", 1, **wish)
        asked = load_front_end("light", "auto", "cpu", 1, long_shots=True, **wish)
        a, b = ([p.joints_px for p in f(far[:1])[0].people] for f in (plain, asked))
        assert len(a) == len(b)
        for one, other in zip(a, b):
            np.testing.assert_array_equal(one, other)


def test_several_frames_at_once_are_looked_at_again_at_once(far: list[Frame]) -> None:
    front_end = load_front_end("light", "onnx", "cpu", 1, batch=4, long_shots=True)
    together = front_end(far[:4])
    asked: list[int] = []
    maps = front_end.network.maps

    def counted(boxed: np.ndarray) -> dict[str, np.ndarray]:
        asked.append(len(boxed))
        return dict(maps(boxed))

    front_end.network.maps = counted
    assert [len(f.people) for f in front_end(far[:4])] == [len(f.people) for f in together]
    assert asked == [4, 4]
    for frame, found in zip(far[:4], together):
        [alone] = front_end([frame])
        for a, b in zip(alone.people, found.people, strict=True):
            np.testing.assert_allclose(a.joints_px, b.joints_px, atol=0.5)
