import numpy as np
import pytest

from manypose.errors import ConfigError
from manypose.pose import filters
from manypose.pose.filters import OneEuro, OneEuroSettings


def bank(rows=1, shape=(1,), **kw):
    return OneEuro(rows, shape, OneEuroSettings(1.0, 0.0, 1.0), **kw)


def test_a_time_of_zero_is_a_time():
    # known flaw of a published filter: stamp 0.0 taken for "no stamp" (0.05 instead of 0.39 here)
    step = bank()
    step(np.array([[0.0]]), 0.0)
    late = step(np.array([[1.0]]), 0.1)
    other = bank()
    other(np.array([[0.0]]), 5.0)
    assert late == pytest.approx(other(np.array([[1.0]]), 5.1))
    assert late[0, 0] == pytest.approx(0.2 * np.pi / (1 + 0.2 * np.pi))


def test_the_true_time_step_counts_not_the_number_of_samples():
    slow, fast = bank(), bank()
    for k in range(11):
        a = slow(np.array([[1.0 if k else 0.0]]), k * 0.01)
    fast(np.array([[0.0]]), 0.0)
    b = fast(np.array([[1.0]]), 0.1)
    assert a[0, 0] == pytest.approx(b[0, 0], abs=0.12)


def test_a_gap_starts_anew_and_nan_passes_through():
    f = bank(max_gap_s=0.5)
    f(np.array([[0.0]]), 0.0)
    assert np.isnan(f(np.array([[np.nan]]), 0.1))
    assert f(np.array([[1.0]]), 0.2)[0, 0] < 0.7  # remembered across the hole, true step 0.2 s
    assert f(np.array([[9.0]]), 1.0)[0, 0] == 9.0


def test_time_running_back_restarts():
    f = bank()
    f(np.array([[0.0]]), 10.0)
    assert f(np.array([[3.0]]), 9.0)[0, 0] == 3.0


def test_rows_are_independent():
    f = bank(rows=3, shape=(2,))
    f(np.zeros((3, 2)), 0.0)
    f(np.ones((1, 2)), 0.1, np.array([1]))
    out = f(np.zeros((3, 2)), 0.2)
    assert out[0].max() == 0
    assert out[1].min() > 0


def test_presets_order_by_delay_and_a_wrong_name_is_refused():
    delay = {name: filters.measured_delay_s(p.root) * 1e3 for name, p in filters.PRESETS.items()}
    assert delay["steady"] > delay["normal"] > delay["fast"] > 0
    assert delay["normal"] < 35
    with pytest.raises(ConfigError, match="steady, normal, fast"):
        filters.preset("smooth")


def test_butterworth_has_no_delay_and_keeps_slow_motion():
    rng = np.random.default_rng(0)
    t = np.cumsum(rng.uniform(0.02, 0.045, 300))
    x = np.sin(2 * np.pi * t)
    y = filters.butterworth(x + rng.normal(0, 0.05, 300), t, 4.0)
    assert np.abs(y - x)[20:-20].mean() < 0.025
    shift = [np.corrcoef(np.interp(t + s, t, y)[30:-30], x[30:-30])[0, 1] for s in (-0.02, 0, 0.02)]
    assert np.argmax(shift) == 1


def test_smoothers_treat_segments_apart():
    t = np.arange(200) / 30
    x = np.where(np.arange(200) < 100, 0.0, 10.0)[:, None] * np.ones((1, 2))
    x[100:120, 0] = np.nan
    for y in (filters.butterworth(x, t), filters.kalman_smooth(x, t, max_gap_s=0.3)):
        assert np.isnan(y[100:120, 0]).all()
        assert np.isfinite(np.delete(y, range(100, 120), 0)).all()
        assert np.abs(y[:100, 0]).max() < 1e-3  # nothing of the 10 leaks over the hole


def test_kalman_smoother_halves_the_error_and_fills_short_holes():
    rng = np.random.default_rng(1)
    t = np.cumsum(rng.uniform(0.02, 0.05, 300))
    x = 0.3 * np.sin(2 * np.pi * 0.7 * t)
    noisy = x + rng.normal(0, 0.02, 300)
    noisy[50:54] = np.nan
    y = filters.kalman_smooth(noisy, t, 0.02, 5.0)
    assert np.isfinite(y).all()
    assert np.abs(y - x).mean() < 0.55 * 0.02 * 0.8
    assert np.abs(y - x)[50:54].max() < 0.03
