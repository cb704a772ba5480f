from __future__ import annotations

import numpy as np
import pytest

from manypose.models import adaptive
from manypose.models.adaptive import Pace, sizes
from manypose.models.front_end import load_front_end


def _run(pace: Pace, network_ms: list[float], rest_ms: float, frames: int) -> list[int]:
    """Return the level of every frame when a level costs so much."""
    levels = []
    for _ in range(frames):
        levels.append(pace.level)
        network = network_ms[pace.level]
        pace.spent((network + rest_ms) / 1e3, network / 1e3)
    return levels


def test_sizes_fall_in_steps_that_the_network_can_take() -> None:
    assert sizes(384, 240) == [(384, 240), (320, 192), (256, 160)]
    for w, h in sizes(512, 320):
        assert (w % 16, h % 16) == (0, 0)
    assert sizes(32, 32) == [(32, 32)]


def test_a_slow_machine_gets_the_largest_size_that_keeps_the_rate() -> None:
    pace = Pace(30, [9, 6, 4])
    levels = _run(pace, [36, 24, 16], 6, 300)
    assert levels[:15] == [0] * 15
    assert set(levels[20:]) == {1}


def test_a_fast_machine_keeps_the_full_size() -> None:
    assert set(_run(Pace(30, [9, 6, 4]), [18, 12, 8], 6, 300)) == {0}


def test_it_goes_back_when_other_programs_have_ended() -> None:
    pace = Pace(30, [9, 6, 4])
    assert _run(pace, [72, 48, 32], 12, 100)[-1] == 2
    assert _run(pace, [15, 10, 7], 4, 600)[-1] == 0


def test_it_does_not_swing_where_no_size_fits_well() -> None:
    pace = Pace(30, [9, 6, 4])
    rng = np.random.default_rng(2)
    levels = []
    for _ in range(4000):  # the larger size is just too slow, the smaller one just easy enough
        levels.append(pace.level)
        network = [32, 16, 10][pace.level] * rng.normal(1, 0.1)
        pace.spent((network + 4) / 1e3, network / 1e3)
    assert np.count_nonzero(np.diff(levels)) < 25


@pytest.mark.parametrize("backend", ["openvino", "auto"])
def test_every_size_gives_maps_of_its_grid(small_files: object, backend: str) -> None:
    pytest.importorskip("openvino")
    from manypose.calib.camera import Camera
    from manypose.pose.records import Frame

    front_end = load_front_end("tiny", backend, "cpu", 1, "fp32", target_fps=30)
    network = front_end.network
    assert isinstance(network, adaptive.AdaptiveNetwork)
    image = np.zeros((90, 160, 3), np.uint8)
    frame = Frame(image, 0.0, 0, Camera.from_fov(160, 90))
    seen = []
    for level, (w, h) in enumerate(sizes(*network.info.input_size)):
        network.pace.level = level
        (output,) = network([frame])
        assert output.heatmaps.shape[1:] == (h // 8, w // 8)
        assert network.input_size == (w, h)
        seen.append(front_end([frame])[0])
    assert len(seen) == len(sizes(*network.info.input_size))
