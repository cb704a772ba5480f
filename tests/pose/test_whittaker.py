import numpy as np
import pytest

from manypose.pose import whittaker

T = np.arange(180) / 30
SETTINGS = (0.05, 0.5, 14.0)  # noise, rest, growth


def wander(rng, t, size):
    """Errors that last for a few frames, as those of networks do."""
    white = rng.normal(0, size, (len(t) + 4, 1, 3))
    return sum(white[i : i + len(t)] for i in range(5)) / np.sqrt(5)


def test_what_rests_is_held_still_and_what_moves_is_followed():
    rng = np.random.default_rng(0)
    rest = wander(rng, T, 0.02)
    got = whittaker.smoothed(rest, T, *SETTINGS)
    bend = [np.abs(np.diff(v, n=2, axis=0)).mean() for v in (got, rest)]
    assert bend[0] < 0.05 * bend[1]
    swing = np.zeros((len(T), 1, 3))
    swing[:, 0, 0] = 0.3 * np.sin(2 * np.pi * 2 * T)  # 3.8 m/s
    got = whittaker.smoothed(swing, T, *SETTINGS)
    inner = slice(30, -30)
    size = np.ptp(got[inner, 0, 0]) / 0.6
    assert 0.85 < size < 1.02
    late = np.argmax([np.vdot(got[inner, 0, 0], np.roll(swing[:, 0, 0], n)[inner])
                      for n in range(-3, 4)])  # fmt: skip
    assert late == 3


def test_a_straight_line_stays_whatever_the_times():
    t = np.sort(np.random.default_rng(1).uniform(0, 6, 150))
    line = (np.array([[1.0, -2.0, 0.5]]) * t[:, None] + 3)[:, None]
    assert whittaker.smoothed(line, t, *SETTINGS) == pytest.approx(line, abs=1e-6)


def test_a_sample_far_from_all_others_counts_little():
    z = np.zeros((len(T), 1, 3))
    z[90] = 1.0
    got = whittaker.smoothed(z, T, 0.02, 0.5, 14.0)
    assert np.abs(got).max() < 0.05


def test_gaps_stay_and_are_not_bridged():
    z = np.zeros((len(T), 2, 3))
    z[60:100, 0] = np.nan  # longer than half a second
    z[100:, 0] = 5.0
    z[30:33, 1] = np.nan
    got = whittaker.smoothed(z, T, *SETTINGS)
    assert (np.isnan(got) == np.isnan(z)).all()
    assert got[:60, 0] == pytest.approx(0, abs=1e-6)
    assert got[100:, 0] == pytest.approx(5, abs=1e-6)
    few = np.random.default_rng(0).normal(size=(4, 1, 3))
    assert (whittaker.smoothed(few, T[:4], *SETTINGS) == few).all()


def test_the_rate_changes_little():
    """The same wave at 25 and at 120 pictures a second keeps the same size."""
    sizes = []
    for rate in (25, 120):
        t = np.arange(6 * rate) / rate
        z = np.zeros((len(t), 1, 1))
        z[:, 0, 0] = 0.1 * np.sin(2 * np.pi * t)
        sizes.append(np.ptp(whittaker.smoothed(z, t, *SETTINGS)[rate:-rate]))
    assert sizes[0] == pytest.approx(sizes[1], rel=0.05)


def test_noise_is_what_neighbours_do_not_share():
    rng = np.random.default_rng(2)
    slow = np.cumsum(rng.normal(0, 1e-4, (2000, 5, 3)), 0)
    noisy = slow + rng.normal(0, 0.01, slow.shape)
    assert whittaker.noise_of(noisy) == pytest.approx(0.01, rel=0.1)
    noisy[100:200, 0] = np.nan
    assert whittaker.noise_of(noisy) == pytest.approx(0.01, rel=0.1)
    noisy[::7, 1:] = np.nan
    assert whittaker.noise_of(noisy) == pytest.approx(0.01, rel=0.15)
    assert np.isnan(whittaker.noise_of(np.full((9, 5, 3), np.nan)))
    assert np.isnan(whittaker.noise_of(noisy[:2]))
