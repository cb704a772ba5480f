"""Joints of two people who overlap in the picture, given back to whom they belong.

Reading limbs from maps cannot tell whose knee it is where two people cover each other; a reading
then mixes them, and what is known of their motion can tell.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Float = NDArray[np.floating[Any]]


@dataclass(frozen=True, slots=True)
class MixConfig:
    """When a joint changes hands; lengths in sizes of the person.

    two: by how much an exchange must shorten the jump of both joints (root of squares), for steps
    of 1/30 s. one: a joint read for one person alone goes over if it lies so near to where the
    other's is expected, and `times` as far from its own place.
    """

    two: float = 0.15
    one: float = 0.06
    times: float = 2.0


def owners(
    last: Float, points: Float, size: Float, config: MixConfig, step_s: float = 1 / 30
) -> NDArray[np.intp]:
    """Return (n, K): from which reading each of n people takes each joint, -1 = from none.

    last (n, K, 2): where the joints are expected, NaN = not known; points (n, K, 2): as read, px,
    NaN = not seen; size (n,) px; step_s: since the last frame.
    """
    # what the prediction misses, the acceleration, grows with the square of the time
    two = config.two * max(1.0, 30 * step_s) ** 2
    n = len(points)
    seen = np.isfinite(points[..., 0])
    out = np.where(seen, np.arange(n)[:, None], -1)
    low = np.where(seen[..., None], points, np.inf).min(1)
    high = np.where(seen[..., None], points, -np.inf).max(1)
    meet = (low[:, None] < high[None]).all(-1)
    for i, j in zip(*np.nonzero(np.triu(meet & meet.T, 1))):
        a, b = points[i], points[j]
        own_a, own_b = _square(a, last[i]), _square(b, last[j])
        new_a, new_b = _square(b, last[i]), _square(a, last[j])
        unit = float(min(size[i], size[j]))
        with np.errstate(invalid="ignore"):
            swap = new_a + new_b < own_a + own_b - (two * unit) ** 2
            near = (config.one * unit) ** 2
            far = config.times**2
            gives = ~seen[j] & (new_b < near) & (own_a > far * np.maximum(new_b, near / 4))
            takes = ~seen[i] & (new_a < near) & (own_b > far * np.maximum(new_a, near / 4))
        mine, yours = out[i].copy(), out[j].copy()
        out[i] = np.where(swap | takes, yours, np.where(gives, -1, mine))
        out[j] = np.where(swap | gives, mine, np.where(takes, -1, yours))
    # a person who would be left with next to nothing keeps what was read
    poor = (out >= 0).sum(1) < np.minimum(seen.sum(1), 3)
    return np.where(poor.any(), np.where(seen, np.arange(n)[:, None], -1), out)


def _square(a: Float, b: Float) -> Float:
    return np.asarray(((a - b) ** 2).sum(-1))
