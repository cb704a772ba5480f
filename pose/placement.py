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
_STEPS = 4
_FACE = ("l_ear", "r_ear", "l_eye", "r_eye", "nose")
# The face points lie up to a hand's breadth from the middle of the head, which stands for them.
_FACE_OFFSET_M = 0.07

_SHOWN = np.array([k >= 0 for k in SHOWN_BY])
_TO_2D = np.array([max(k, 0) for k in SHOWN_BY])


def observed(rays: Float, score: Float) -> tuple[Float, Float, Float]:
    """Return what is seen of the 3D joints: rays (N, J, 2), scores (N, J), extra errors (J,) m.

    Mid-head, which no 2D joint shows, is read between the ears, or else from what is seen of the
    face. Scores are 0 where nothing is seen.
    """
    out = np.where((score > 0)[..., None], rays, 0.0)[:, _TO_2D]
    weight = np.where(_SHOWN, score[:, _TO_2D], 0.0)
    face = [INDEX_2D[n] for n in _FACE]
    seen = score[:, face] > 0
    seen[:, 2:] &= ~seen[:, :2].all(1, keepdims=True)  # both ears say it best
    total = np.maximum(seen.sum(1), 1)
    points = np.where(seen[..., None], rays[:, face], 0.0)
    head = INDEX["head"]
    out[:, head] = points.sum(1) / total[:, None]
    weight[:, head] = np.where(seen, score[:, face], 0).sum(1) / total
    extra = np.zeros(len(SHOWN_BY))
    extra[head] = _FACE_OFFSET_M
    return out, weight, extra


def place(
    joints_rel_m: Float, sigma_m: Float, rays: Float, score: Float, ray_error: Float
) -> tuple[Float, Float]:
    """Return the roots (N, 3) m in the camera frame and their expected errors along the ray (N,).

    Args:
        joints_rel_m: (N, J, 3) relative to the root, camera axes.
        sigma_m: (N, J) expected errors of the joints.
        rays: (N, K, 2) seen 2D joints on the plane z = 1, NaN where not seen.
        score: (N, K), 0 where not seen.
        ray_error: (N,) expected error of a ray on the plane z = 1.
    """
    q, c, extra = observed(rays, score)
    p = joints_rel_m
    # The component of an error of length s along one axis, were all axes alike.
    side = (sigma_m**2 + extra**2) / 3
    z: Float = np.full(len(p), _PRIOR_M)
    root: Float = np.zeros((len(p), 3))
    for _ in range(2):  # the second round knows how far away the joints are
        root = _linear(p, q, c / (ray_error[:, None] ** 2 + side / z[:, None] ** 2), z)
        root = _in_front(root, p, q, c)
        z = root[:, 2]
    covariance: Float = np.zeros((len(p), 3, 3))
    for _ in range(_STEPS):
        weight = c / (ray_error[:, None] ** 2 + side / root[:, 2:] ** 2)
        root, covariance = _step(root, p, q, weight)
        root = _in_front(root, p, q, c)
    ray = root / np.linalg.norm(root, axis=1, keepdims=True)
    along = np.einsum("ni,nij,nj->n", ray, covariance, ray)
    far = np.linalg.norm(root, axis=1)
    return root, np.sqrt(np.maximum(along, 0) + (SIZE_SPREAD * far) ** 2)


def _linear(p: Float, q: Float, weight: Float, z: Float) -> Float:
    """Return the roots (N, 3) of t_xy - q t_z = q Z - XY, weighted, with a weak prior on t_z.

    Multiplied by z, the residual of a row is a distance on the plane z = 1.
    """
    w = weight / z[:, None] ** 2
    total = w.sum(1)
    wq = (w[..., None] * q).sum(1)
    b = q * p[..., 2:] - p[..., :2]
    a = np.zeros((len(p), 3, 3))
    a[:, 0, 0] = a[:, 1, 1] = total
    a[:, 0, 2] = a[:, 2, 0] = -wq[:, 0]
    a[:, 1, 2] = a[:, 2, 1] = -wq[:, 1]
    a[:, 2, 2] = (w * (q**2).sum(-1)).sum(1) + (_PRIOR_SPREAD * _PRIOR_M) ** -2
    right = np.zeros((len(p), 3))
    right[:, :2] = (w[..., None] * b).sum(1)
    right[:, 2] = -(w * (q * b).sum(-1)).sum(1) + _PRIOR_M * (_PRIOR_SPREAD * _PRIOR_M) ** -2
    return _solve(a, right)


def _step(root: Float, p: Float, q: Float, weight: Float) -> tuple[Float, Float]:
    """Return the roots (N, 3) after one Gauss-Newton step, and their covariances (N, 3, 3)."""
    at = p + root[:, None]
    z = np.maximum(at[..., 2], _NEAR_M)
    u = at[..., :2] / z[..., None]
    residual = q - u
    # A joint far off is a wrong one: weights fall as in a Cauchy loss.
    weight = weight / (1 + weight * (residual**2).sum(-1) / 9)
    w = weight / z**2
    a = np.zeros((len(p), 3, 3))
    a[:, 0, 0] = a[:, 1, 1] = w.sum(1)
    a[:, 0, 2] = a[:, 2, 0] = -(w * u[..., 0]).sum(1)
    a[:, 1, 2] = a[:, 2, 1] = -(w * u[..., 1]).sum(1)
    far = root[:, 2]
    prior = (_PRIOR_SPREAD * far) ** -2.0
    a[:, 2, 2] = (w * (u**2).sum(-1)).sum(1) + prior
    r = weight[..., None] * residual / z[..., None]
    right = np.zeros_like(root)
    right[:, :2] = r.sum(1)
    right[:, 2] = -(r * u).sum((1, 2)) - prior * far * np.log(far / _PRIOR_M)
    change = _solve(a, right)
    # Depth is positive: no step shortens it by more than half or makes it more than double.
    change = change * np.minimum(1, 0.5 * far / np.maximum(np.abs(change[:, 2]), 1e-9))[:, None]
    return root + change, np.linalg.inv(a + 1e-9 * np.eye(3))


def _solve(a: Float, right: Float) -> Float:
    """Return the solutions of symmetric systems (N, 3, 3), those without any equation included."""
    scale = np.trace(a, axis1=1, axis2=2)[:, None, None]
    damped = a + (1e-12 * scale + 1e-12) * np.eye(3)
    return np.asarray(np.linalg.solve(damped, right[..., None])[..., 0])


def _in_front(root: Float, p: Float, q: Float, c: Float) -> Float:
    """Return the roots, moved away along their rays until every seen joint is in front."""
    nearest = np.where(c > 0, p[..., 2], 0.0).min(1)
    least = np.maximum(_NEAR_M - nearest, _NEAR_M)
    short = ~(root[:, 2] >= least)
    if not short.any():
        return root
    total = np.maximum(c.sum(1, keepdims=True), 1e-9)
    ray = (c[..., None] * q).sum(1) / total
    moved = np.concatenate([ray * least[:, None], least[:, None]], 1)
    return np.where(short[:, None], moved, root)


def pull(
    joints_rel_m: Float, sigma_m: Float, root_m: Float, rays: Float, score: Float, ray_error: Float
) -> Float:
    """Return the joints (N, J, 3) relative to the root, seen ones drawn sideways to their rays.

    How far is a matter of the errors: a joint of which the network is unsure goes nearly all the
    way, one whose ray is unsure hardly moves. Depths and the root stay.
    """
    q, c, extra = observed(rays, score)
    at = joints_rel_m + root_m[:, None]
    z = np.maximum(at[..., 2:], _NEAR_M)
    side = sigma_m**2 / 3
    ray = (ray_error[:, None] * z[..., 0]) ** 2 / np.maximum(c, 1e-3) + extra**2
    gain = np.where(c > 0, side / (side + ray), 0.0)[..., None]
    gain[:, ROOT] = 0
    moved = at.copy()
    moved[..., :2] += gain * (q * z - at[..., :2])
    return np.asarray(moved - root_m[:, None])
