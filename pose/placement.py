"""Where people stand: the translation that brings 3D joints onto the rays on which they are seen.

A start by linear least squares, then Gauss-Newton steps on the true reprojection error, for all
people at once. Errors are weighed by what is known of them: the expected error of a 2D joint, and
that of a 3D joint sideways, which shrinks with distance. A weak prior (a distance of a few metres)
keeps the answer finite when the seen joints tell nothing of depth, as a single one does.

Depth is only as good as the size of the body: one that is 10 % too large stands 10 % too far.

Source: Mehta et al. 2020 (XNect), section 4.3; the linear form as in Sárándi et al. 2021 (MeTRAbs).
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from manypose.pose.joints import INDEX, INDEX_2D, ROOT, SHOWN_BY

Float = NDArray[np.floating[Any]]

# Spread of adults' sizes (standard deviation of the log), the part of depth no picture tells.
SIZE_SPREAD = 0.06
# Distance and its spread (of the log) assumed when the picture tells nothing.
_PRIOR_M, _PRIOR_SPREAD = 4.0, 3.0
_NEAR_M = 0.15  # no seen joint is nearer than this
# Steps at most; one shorter than this share of the distance is the last.
_STEPS, _STEP_MIN = 6, 3e-4
# The face points lie up to a hand's breadth from the middle of the head, which stands for them.
_FACE_OFFSET_M = 0.07

# Where people mark joints on photographs, against the centres of rotation of the 3D joints, in
# torso lengths (measured on rendered people with a network trained on photographs): shoulders
# nearer to each other and higher, hips farther apart and higher.
_LABELS = (("shoulder", 0.055, 0.018), ("hip", -0.017, 0.025))

_LEFT, _RIGHT = (np.array([INDEX[f"{s}_{name}"] for name, *_ in _LABELS]) for s in "lr")
_INWARDS, _HIGHER = (np.array([[row[i]] for row in _LABELS]) for i in (1, 2))
# The joints in the middle of these pairs.
_MIDDLE = np.array([INDEX["neck"], INDEX["pelvis"]])
_NECK, _HEAD = INDEX["neck"], INDEX["head"]

_HIDDEN = np.array([j for j, k in enumerate(SHOWN_BY) if k < 0])
_TO_2D = np.array([max(k, 0) for k in SHOWN_BY])
_FACE = np.array([INDEX_2D[n] for n in ("l_ear", "r_ear", "l_eye", "r_eye", "nose")])


def observed(rays: Float, ray_error: Float) -> tuple[Float, Float]:
    """Return what is seen of the 3D joints: rays (N, J, 2) and their errors (N, J).

    Mid-head, which no 2D joint shows, is read between the ears, or else from what is seen of the
    face. Errors are infinite where nothing is seen, and the rays 0.
    """
    given = np.isfinite(ray_error)
    flat = np.where(given[..., None], rays, 0.0)
    out, error = flat[:, _TO_2D], ray_error[:, _TO_2D]
    error[:, _HIDDEN] = np.inf
    seen = given[:, _FACE]
    seen[:, 2:] &= ~(seen[:, :1] & seen[:, 1:2])  # both ears say it best
    total = seen.sum(1)
    share = seen / np.maximum(total, 1)[:, None]
    out[:, _HEAD] = (share[:, None] @ flat[:, _FACE])[:, 0]
    mean = (share * np.where(seen, ray_error[:, _FACE], 0)).sum(1)
    error[:, _HEAD] = np.where(total > 0, mean, np.inf)
    return out, error


def marked(joints_rel_m: Float) -> Float:
    """Return the points (N, J, 3) where the 2D joints of these 3D joints are marked.

    The 2D neck is the middle of the shoulders, 5 cm below the 3D neck; see also `_LABELS`.
    """
    out = joints_rel_m.copy()
    up = joints_rel_m[:, None, _NECK] - joints_rel_m[:, None, ROOT]
    left, right = joints_rel_m[:, _LEFT], joints_rel_m[:, _RIGHT]  # (N, 2, 3)
    across = left - right
    across *= _INWARDS * _norm(up) / np.maximum(_norm(across), 1e-6)
    raised = _HIGHER * up
    out[:, _LEFT] = left = left + (raised - across)
    out[:, _RIGHT] = right = right + (raised + across)
    out[:, _MIDDLE] = (left + right) / 2
    return out


def _norm(vectors: Float) -> Float:
    return np.asarray(np.sqrt((vectors * vectors).sum(-1, keepdims=True)))


def place(
    joints_rel_m: Float,
    sigma_m: Float,
    rays: Float,
    ray_error: Float,
    size_error: Float | float = SIZE_SPREAD,
) -> tuple[Float, Float]:
    """Return the roots (N, 3) m in the camera frame and their expected errors along the ray (N,).

    Args:
        joints_rel_m: (N, J, 3) relative to the root, camera axes.
        sigma_m: (N, J) expected errors of the joints.
        rays: (N, K, 2) seen 2D joints on the plane z = 1, NaN where not seen.
        ray_error: (N, K) their expected errors on that plane, infinite where not seen.
        size_error: (N,) expected error of the log of the bodies' sizes.
    """
    return _place(joints_rel_m, sigma_m, *observed(rays, ray_error), size_error)


def placed(
    joints_rel_m: Float, sigma_m: Float, rays: Float, ray_error: Float, size_error: Float | float
) -> tuple[Float, Float, Float]:
    """Return what `place` does, and the joints (N, J, 3) as `pull` then draws them to their rays.

    The arguments are those of `place`.
    """
    seen = observed(rays, ray_error)
    root, along = _place(joints_rel_m, sigma_m, *seen, size_error)
    return root, along, _pull(joints_rel_m, sigma_m, root, *seen)


def _place(
    joints_rel_m: Float, sigma_m: Float, rays: Float, error: Float, size_error: Float | float
) -> tuple[Float, Float]:
    """Return roots (N, 3) and errors (N,) as `place` does, from what `observed` returns.

    Coordinates come first, (2, N, J) across and (N, J) along: arrays are small, and calls count.
    """
    p = marked(joints_rel_m).transpose(2, 0, 1)
    across, along, q = p[:2].copy(), p[2].copy(), rays.transpose(2, 0, 1).copy()
    seen = np.isfinite(error)
    error2, side = error * error, _sideways(sigma_m)
    # how near the root may be: the nearest seen joint is at the least _NEAR_M away
    least = np.maximum(_NEAR_M - np.where(seen, along, 0.0).min(1), _NEAR_M)
    root: Float = np.empty((3, len(along)))  # x, y, z
    root[2] = _PRIOR_M
    shares = _linear_shares(across, along, q)
    for _ in range(2):  # the second round knows how far away the joints are
        z = root[2] * root[2]
        root = _in_front(_linear(shares, 1 / (error2 * z[:, None] + side)), least, q, seen)
    normal: Float = np.zeros((4, len(along)))
    at: NDArray[np.intp] | slice = slice(None)  # those still on their way
    for _ in range(_STEPS):
        before = root[:, at]
        weight = error2[at] + side[at] / (before[2] * before[2])[:, None]
        after, normal[:, at] = _step(before, across[:, at], along[at], q[:, at], weight)
        after = _in_front(after, least[at], q[:, at], seen[at])
        # a step errs by a small part of its length
        on = np.abs(after - before).max(0) > _STEP_MIN * after[2]
        root[:, at] = after
        if not on.any():
            break
        if not on.all():
            at = np.arange(len(along))[at][on]
    length = np.sqrt((root * root).sum(0))
    ray = root / length
    # the variance along the ray: the ray times the covariance times the ray
    spread = (ray * _solve(normal, ray, 1e-9)).sum(0)
    return root.T.copy(), np.sqrt(np.maximum(spread, 0) + (size_error * length) ** 2)


def _sideways(sigma_m: Float) -> Float:
    """Return the variances (N, J) along one axis of errors of this length, were all axes alike."""
    out = sigma_m**2 / 3
    out[:, _HEAD] += _FACE_OFFSET_M**2
    return out


def _linear_shares(across: Float, along: Float, q: Float) -> Float:
    """Return (7, N, J) what every joint adds, times its weight, to the equations of `_linear`."""
    out = np.empty((7, *along.shape))
    out[0] = 1
    out[1:3] = q
    np.multiply(q, along, out=out[4:6])
    out[4:6] -= across
    (q * q).sum(0, out=out[3])
    (q * out[4:6]).sum(0, out=out[6])
    return out


def _linear(shares: Float, weight: Float) -> Float:
    """Return the roots (3, N) of t_xy - q t_z = q Z - XY, weighted, with a weak prior on t_z.

    The residual of a row times the square root of its weight (N, J) has an expected error of one.
    """
    total, x, y, square, right_x, right_y, right_z = (shares * weight).sum(-1)
    prior = (_PRIOR_SPREAD * _PRIOR_M) ** -2
    right = np.stack([right_x, right_y, _PRIOR_M * prior - right_z])
    return _solve(np.stack([total, x, y, square + prior]), right)


def _step(
    root: Float, across: Float, along: Float, q: Float, variance: Float
) -> tuple[Float, Float]:
    """Return the roots (3, N) after one Gauss-Newton step, and its equations as `_solve` has them.

    variance (N, J): of the seen rays, on the plane z = 1.
    """
    at = across + root[:2, :, None]
    z = np.maximum(along + root[2][:, None], _NEAR_M)
    shares = np.empty((7, *z.shape))  # 1, u, u^2, residual, residual u; residuals times z
    shares[0] = 1
    u, residual = shares[1:3], shares[4:6]
    np.divide(at, z, out=u)
    np.multiply(q, z, out=residual)
    residual -= at
    (u * u).sum(0, out=shares[3])
    (u * residual).sum(0, out=shares[6])
    weight = 1 / (variance * (z * z))
    # A joint far off is a wrong one: weights fall as in a Cauchy loss.
    weight /= 1 + weight * (residual * residual).sum(0) / 9
    sums = (shares * weight).sum(-1)
    far = root[2]
    prior = (_PRIOR_SPREAD * far) ** -2.0
    normal, right = sums[:4], sums[4:]
    normal[3] += prior
    right[2] = -right[2] - prior * far * np.log(far / _PRIOR_M)
    change = _solve(normal, right)
    # Depth is positive: no step shortens it by more than half or makes it more than double.
    change *= np.minimum(1, 0.5 * far / np.maximum(np.abs(change[2]), 1e-9))
    return root + change, normal


def _solve(normal: Float, right: Float, damping: float | None = None) -> Float:
    """Return the solutions (3, N) of symmetric systems, those without any equation included.

    normal (4, N): s, x, y, q of the matrix with rows (s, 0, -x), (0, s, -y), (-x, -y, q).
    """
    s, across, q = normal[0], normal[1:3], normal[3]
    more = 1e-12 * (2 * s + q) + 1e-12 if damping is None else damping
    s, q = s + more, q + more
    part = across / s
    z = (right[2] + (part * right[:2]).sum(0)) / (q - (part * across).sum(0))
    out = np.empty_like(right)
    np.multiply(part, z, out=out[:2])
    out[:2] += right[:2] / s
    out[2] = z
    return out


def _in_front(root: Float, least: Float, q: Float, seen: NDArray[np.bool_]) -> Float:
    """Return the roots (3, N), moved along their rays until they are so far away at the least."""
    short = ~(root[2] >= least)
    if not short.any():
        return root
    ray = (seen * q).sum(-1) / np.maximum(seen.sum(1), 1)
    return np.where(short, np.stack([*(ray * least), least]), root)


def pull(
    joints_rel_m: Float, sigma_m: Float, root_m: Float, rays: Float, ray_error: Float
) -> Float:
    """Return the joints (N, J, 3) relative to the root, seen ones drawn sideways to their rays.

    How far is a matter of the errors: a joint of which the network is unsure goes nearly all the
    way, one whose ray is unsure hardly moves. Depths and the root stay.
    """
    return _pull(joints_rel_m, sigma_m, root_m, *observed(rays, ray_error))


def _pull(joints_rel_m: Float, sigma_m: Float, root_m: Float, rays: Float, error: Float) -> Float:
    moved = joints_rel_m + root_m[:, None]
    shown = moved[..., :2].copy()  # shoulders and hips themselves: an overlay fits the picture
    z = np.maximum(moved[..., 2], _NEAR_M)
    neck = (moved[:, _LEFT[0]] + moved[:, _RIGHT[0]]) / 2
    shown[:, _NECK], z[:, _NECK] = neck[:, :2], np.maximum(neck[:, 2], _NEAR_M)
    side = _sideways(sigma_m)
    gain = side / (side + (np.minimum(error, 1e6) * z) ** 2)
    gain[:, ROOT] = 0
    moved[..., :2] += gain[..., None] * (rays * z[..., None] - shown)
    return np.asarray(moved - root_m[:, None])
