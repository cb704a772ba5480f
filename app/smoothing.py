"""Zero-phase smoothing of recorded tracks: what a live filter cannot do, since it knows the future.

Source: `pose.filters` (dual-pass Butterworth; Kalman filter with the backward pass).
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from manypose.pose import filters

Float = NDArray[np.floating[Any]]


def smooth_joints(joints_m: Float, times_s: Float, how: str) -> Float:
    """Return the joints (T, J, 3) of one person smoothed; NaN stays NaN, gaps are not bridged."""
    flat = np.where(np.isfinite(joints_m), joints_m, np.nan)
    if how == "butterworth":
        return filters.butterworth(flat, times_s, 6.0)
    out = filters.kalman_smooth(flat, times_s, 0.01, 8.0)
    return np.where(np.isfinite(flat), out, np.nan)
