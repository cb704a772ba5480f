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
_FACE = ("l_ear", "r_ear", "l_eye", "r_eye", "nose")
# The face points lie up to a hand's breadth from the middle of the head, which stands for them.
_FACE_OFFSET_M = 0.07

# Where people mark joints on photographs, against the centres of rotation of the 3D joints, in
# torso lengths (measured on rendered people with a network trained on photographs): shoulders
# nearer to each other and higher, hips farther apart and higher.
_LABELS = (("shoulder", 0.055, 0.018), ("hip", -0.017, 0.025))

_SHOWN = np.array([k >= 0 for k in SHOWN_BY])
_TO_2D = np.array([max(k, 0) for k in SHOWN_BY])


def observed(rays: Float, ray_error: Float) -> tuple[Float, Float]:
    """Return what is seen of the 3D joints: rays (N, J, 2) and their errors (N, J).

    Mid-head, which no 2D joint shows, is read between the ears, or else from what is seen of the
    face. Errors are infinite where nothing is seen, and the rays 0.
    """
    flat = np.where(np.isfinite(ray_error)[..., None], rays, 0.0)
    out, error = flat[:, _TO_2D], np.where(_SHOWN, ray_error[:, _TO_2D], np.inf)
    face = [INDEX_2D[n] for n in _FACE]
    seen = np.isfinite(ray_error[:, face])
    seen[:, 2:] &= ~seen[:, :2].all(1, keepdims=True)  # both ears say it best
    total = seen.sum(1)
    head = INDEX["head"]
    out[:, head] = (
        np.where(seen[..., None], flat[:, face], 0).sum(1) / np.maximum(total, 1)[:, None]
    )
    mean = np.where(seen, ray_error[:, face], 0).sum(1) / np.maximum(total, 1)
    error[:, head] = np.where(total > 0, mean, np.inf)
    return out, error


def marked(joints_rel_m: Float) -> Float:
    """Return the points (N, J, 3) where the 2D joints of these 3D joints are marked.

    The 2D neck is the middle of the shoulders, 5 cm below the 3D neck; see also `_LABELS`.
    """
    out = joints_rel_m.copy()
    up = joints_rel_m[:, INDEX["neck"]] - joints_rel_m[:, ROOT]
    length = _norm(up)
    for name, inwards, higher in _LABELS:
        left, right = INDEX[f"l_{name}"], INDEX[f"r_{name}"]
        across = joints_rel_m[:, left] - joints_rel_m[:, right]
        across = across * (inwards * length / np.maximum(_norm(across), 1e-6))
        out[:, left] += higher * up - across
        out[:, right] += higher * up + across
    for name, pair in (("neck", "shoulder"), ("pelvis", "hip")):
        out[:, INDEX[name]] = (out[:, INDEX[f"l_{pair}"]] + out[:, INDEX[f"r_{pair}"]]) / 2
    return out


def _norm(vectors: Float) -> Float:
    return np.asarray(np.linalg.norm(vectors, axis=-1, keepdims=True))


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
    q, error = observed(rays, ray_error)
    p = marked(joints_rel_m)
    seen = np.isfinite(error)
    side = _sideways(sigma_m)
    z: Float = np.full(len(p), _PRIOR_M)
    root: Float = np.zeros((len(p), 3))
    for _ in range(2):  # the second round knows how far away the joints are
        root = _linear(p, q, 1 / (error**2 + side / z[:, None] ** 2), z)
        root = _in_front(root, p, q, seen)
        z = root[:, 2]
    normal: Float = np.zeros((len(p), 3, 3))
    error2 = error**2
    at = np.arange(len(p))  # those still on their way
    for _ in range(_STEPS):
        before = root[at]
        some = (p[at], q[at])
        weight = 1 / (error2[at] + side[at] / before[:, 2:] ** 2)
        after, normal[at] = _step(before, *some, weight)
        root[at] = after = _in_front(after, *some, seen[at])
        # a step errs by a small part of its length
        at = at[np.abs(after - before).max(1) > _STEP_MIN * after[:, 2]]
        if not len(at):
            break
    ray = root / _norm(root)
    covariance = np.linalg.inv(normal + 1e-9 * np.eye(3))
    along = np.einsum("ni,nij,nj->n", ray, covariance, ray)
    return root, np.sqrt(np.maximum(along, 0) + (size_error * _norm(root)[:, 0]) ** 2)


def _sideways(sigma_m: Float) -> Float:
    """Return the variances (N, J) along one axis of errors of this length, were all axes alike."""
    out = sigma_m**2 / 3
    out[:, INDEX["head"]] += _FACE_OFFSET_M**2
    return out


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
    """Return the roots (N, 3) after one Gauss-Newton step, and its normal matrices (N, 3, 3)."""
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
    return root + change, a


def _solve(a: Float, right: Float) -> Float:
    """Return the solutions of symmetric systems (N, 3, 3), those without any equation included."""
    scale = np.trace(a, axis1=1, axis2=2)[:, None, None]
    damped = a + (1e-12 * scale + 1e-12) * np.eye(3)
    return np.asarray(np.linalg.solve(damped, right[..., None])[..., 0])


def _in_front(root: Float, p: Float, q: Float, seen: NDArray[np.bool_]) -> Float:
    """Return the roots, moved away along their rays until every seen joint is in front."""
    nearest = np.where(seen, p[..., 2], 0.0).min(1)
    least = np.maximum(_NEAR_M - nearest, _NEAR_M)
    short = ~(root[:, 2] >= least)
    if not short.any():
        return root
    ray = (seen[..., None] * q).sum(1) / np.maximum(seen.sum(1), 1)[:, None]
    moved = np.concatenate([ray * least[:, None], least[:, None]], 1)
    return np.where(short[:, None], moved, root)


def pull(
    joints_rel_m: Float, sigma_m: Float, root_m: Float, rays: Float, ray_error: Float
) -> Float:
    """Return the joints (N, J, 3) relative to the root, seen ones drawn sideways to their rays.

    How far is a matter of the errors: a joint of which the network is unsure goes nearly all the
    way, one whose ray is unsure hardly moves. Depths and the root stay.
    """
    q, error = observed(rays, ray_error)
    at = joints_rel_m + root_m[:, None]
    shown = at.copy()  # shoulders and hips themselves: an overlay then fits the picture
    neck, shoulders = INDEX["neck"], [INDEX["l_shoulder"], INDEX["r_shoulder"]]
    shown[:, neck] = at[:, shoulders].mean(1)
    z = np.maximum(shown[..., 2], _NEAR_M)
    side = _sideways(sigma_m)
    gain = side / (side + (np.where(np.isfinite(error), error, 1e6) * z) ** 2)
    gain[:, ROOT] = 0
    moved = at.copy()
    moved[..., :2] += gain[..., None] * (q * z[..., None] - shown[..., :2])
    return np.asarray(moved - root_m[:, None])
