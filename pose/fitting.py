"""Stage III: one jointed body per person, fitted to 3D and 2D evidence and to its own past.

Every energy is a sum of squared residuals divided by an expected error in metres or rad, so the
weights of the terms are those errors (FitWeights, the only place). Damped Gauss-Newton from the
pose predicted by the last frames; all people of a frame are solved together.

Source: XNect (Mehta et al. 2020), section 4.3 (energy terms); the errors are tuned on generated
sequences instead of the paper's unit-bound factors.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from manypose.pose import skeleton as sk
from manypose.pose.angles import rotations_from_joints
from manypose.pose.body import Bodies
from manypose.pose.joints import INDEX

Float = NDArray[np.floating[Any]]
Rows = NDArray[np.intp]

_J, _K = len(sk.KINEMATIC_PARENT), len(sk.POINT_OF_2D)
_EYE = np.eye(3)
_OF_FACE = np.arange(_K) < 5
# 1 x y z of a joint to its three forms (see `skeleton.jacobian`); the same times 1, x/z, y/z of a
# 2D joint, over 1, x/z, y/z, to the forms of x/z and y/z (times z)
_FORMS_3D = sk.FORMS.reshape(4, 18)
_FORMS_2D: Float = np.zeros((4, 3, 2, 6))
_FORMS_2D[:, 0], _FORMS_2D[:, [1, 2], [0, 1]] = sk.FORMS[:, :2], -sk.FORMS[:, 2:]
_FORMS_2D = _FORMS_2D.reshape(12, 12)
# what moves what is measured: x y z of the joints, then x y of the marks
_MOVED = np.concatenate(
    [np.repeat(sk.MOVED[:_J], 3, 0), np.repeat(sk.marks(sk.MOVED[None])[0], 2, 0)]
)
_MOVED[: 3 * _J, :3] = 0  # joints count from the pelvis
# A pose that misses Stage II's by so many expected errors, of _WRONG_M at the least, in as many
# joints as a limb has is given up: small steps do not bring an arm back that turned the wrong way.
_MISFIT_MAX, _LIMB, _WRONG_M = 4.0, 3, 0.03
# Below these, a step is the last one: how far it went, and how well the pose before it fitted
# (expected errors in the median joint).
_STEP_RAD, _MISFIT_SURE = 0.1, 2.0


@dataclass(frozen=True, slots=True)
class FitWeights:
    """Expected errors of the evidence; smaller means heavier.

    points_m scales the per-joint sigma of Stage II (1 = believed as it is). image_m is the error
    of a surely seen 2D joint, as metres at the person's depth, image_px the same in pixels of a
    picture 512 wide (the grid of the network), image_doubt_m what each unit of confidence adds that
    is missing to image_sure; all three add up. Joints without any error have confidences down to
    image_sure and less where they lie between cells. The doubt is twice the median error measured
    with a small network, whose joints err together and for long. image_outlier_m: 2D residuals
    beyond this lose influence (Cauchy). face_ratio: how much worse points of the face are.
    limit_rad: softness of the joint limits; rest_rad: pull to the middle of the range, which
    decides only what nothing else sees. turn_floor_rad, shift_floor_m and depth_floor_m: how far
    a frame may lead from the pose predicted for somebody at rest (joints; root across and along
    the line of sight), for steps of 1/30 s; *_share: what is added for each unit moved by the
    prediction. depth_ratio scales Stage II's error of the distance. speed_s: time constant of the
    velocities; memory_s: how fast a predicted velocity dies away. damping: share of the diagonal
    added (Levenberg-Marquardt).
    """

    points_m: float = 1.0
    image_m: float = 0.008
    image_px: float = 1.0
    image_doubt_m: float = 0.20
    image_sure: float = 0.85
    image_outlier_m: float = 0.07
    face_ratio: float = 2.5
    limit_rad: float = 0.05
    rest_rad: float = 1.5
    turn_floor_rad: float = 0.08
    turn_share: float = 1.0
    shift_floor_m: float = 0.02
    shift_share: float = 1.0
    depth_floor_m: float = 0.02
    depth_share: float = 0.5
    speed_s: float = 0.03
    depth_ratio: float = 1.0
    damping: float = 1e-3
    memory_s: float = 0.15
    iterations: int = 2
    first_iterations: int = 8


@dataclass(frozen=True, slots=True, eq=False)
class Evidence:
    """What one frame says about N people.

    joints_rel_m (N, J, 3) and sigma_m (N, J) of Stage II; root_m (N, 3) and root_sigma_m (N,);
    rays (N, K, 2) 2D joints as x/z, y/z (NaN = not seen), confidence (N, K); pixel: size at
    distance 1 of a pixel of a picture 512 wide; size_error (N,) of the log of the poses' size.
    """

    joints_rel_m: Float
    sigma_m: Float
    root_m: Float
    root_sigma_m: Float
    rays: Float
    confidence: Float
    pixel: float
    size_error: Float | None = None

    def of(self, which: NDArray[np.bool_]) -> Evidence:
        """Return the evidence of some of the people."""
        return Evidence(
            self.joints_rel_m[which],
            self.sigma_m[which],
            self.root_m[which],
            self.root_sigma_m[which],
            self.rays[which],
            self.confidence[which],
            self.pixel,
            None if self.size_error is None else self.size_error[which],
        )


class Fitter:
    """Poses and bodies of all tracks, one row each; remembers the last pose and its motion."""

    def __init__(self, rows: int, bodies: Bodies, weights: FitWeights | None = None) -> None:
        self.bodies = bodies
        self._weights = weights or FitWeights()
        self._root = np.zeros((rows, 3))
        self._rotations = np.zeros((rows, _J, 4))
        self._rotations[..., 3] = 1
        self._root_speed = np.zeros((rows, 3))
        self._turn_speed = np.zeros((rows, _J, 3))
        self._time = np.full(rows, np.nan)
        self._work = np.empty((rows, len(_MOVED), sk.DOF_COUNT))  # of `_iterate`

    def clear(self, rows: Rows) -> None:
        """Forget the motion and the bodies of these rows."""
        self._time[rows] = np.nan
        self.bodies.clear(rows)

    def stop(self, rows: Rows) -> None:
        """Forget the motion of these rows, keep their bodies."""
        self._time[rows] = np.nan

    def fit(self, rows: Rows, evidence: Evidence, time_s: float) -> tuple[Float, Float]:
        """Return root (N, 3) m and local rotations (N, J, 4) of these tracks in this frame."""
        w = self._weights
        self.bodies.observe(rows, evidence.joints_rel_m, evidence.sigma_m, evidence.size_error)
        lengths, ratio = self.bodies.lengths_m[rows], self.bodies.ratio[rows]
        offsets = sk.offsets_m(lengths)
        target = evidence.joints_rel_m * ratio[:, None, None]
        far = evidence.root_m * ratio[:, None]
        dt = time_s - self._time[rows]
        known = np.isfinite(dt) & (dt >= 0) & (dt < 1.0)
        root: Float = np.array(far)
        rotations: Float = self._rotations[rows]
        new = ~known
        if new.any():
            rotations[new] = rotations_from_joints(target[new])
        dt = np.where(known, dt, 0.0)
        fade = w.memory_s * (1 - np.exp(-dt / w.memory_s))  # integral of a dying velocity
        if known.any():
            k = rows[known]
            root[known] = self._root[k] + self._root_speed[k] * fade[known, None]
            turn = self._turn_speed[k] * fade[known, None, None]
            rotations[known] = sk.quaternion_multiply(self._rotations[k], sk.exp_map(turn))
        before_root, before = self._root[rows].copy(), self._rotations[rows].copy()
        prior = _Prior(
            root,
            rotations,
            dt,
            known,
            far,
            evidence.root_sigma_m * ratio,
            w,
            self._root_speed[rows],
            self._turn_speed[rows],
        )
        measure = _Measure(target, evidence, offsets, w)
        misfit: Float = np.zeros((len(rows), 2))
        at = np.arange(len(rows))  # those still on their way
        for n in range(w.first_iterations if new.any() else w.iterations):
            part = (root, rotations, measure, prior)
            if n and len(at) < len(rows):
                part = (root[at], rotations[at], measure.of(at), prior.of(at))
            root[at], rotations[at], misfit[at], moved = _iterate(*part, w, self._work)
            # a step errs by about the square of its length
            at = at[(moved > _STEP_RAD) | (misfit[at, 0] > _MISFIT_SURE)]
            if not len(at):
                break
        self._remember(rows, root, rotations, before_root, before, known, dt, time_s)
        lost = known & (misfit[:, 1] > _MISFIT_MAX)
        if lost.any():  # in a wrong valley, or another pose altogether: start anew if it helps
            anew = rotations_from_joints(target[lost])
            points, _ = sk.forward(np.zeros((len(anew), 3)), anew, offsets[lost])
            error = (points[:, :_J] - target[lost]) * measure.weight3[lost, :, None]
            lost[lost] = _misfit(error, measure.ease[lost])[:, 1] < 0.5 * misfit[lost, 1]
        if lost.any():
            self.stop(rows[lost])
            root[lost], rotations[lost] = self.fit(rows[lost], evidence.of(lost), time_s)
        return root, rotations

    def _remember(
        self, rows: Rows, root: Float, rotations: Float, before_root: Float, before: Float,
        known: NDArray[np.bool_], dt: Float, time_s: float,
    ) -> None:  # fmt: skip
        step = np.maximum(dt, 1e-3)
        moved = known & (dt > 1e-3)
        speed = (root - before_root) / step[:, None]
        turn = sk.log_map(sk.quaternion_multiply(sk.conjugate(before), rotations))
        turn = turn / step[:, None, None]
        gain = np.where(moved, step / (step + self._weights.speed_s), 1.0)[:, None]
        old = np.where(known[:, None], self._root_speed[rows], 0)
        self._root_speed[rows] = old + gain * (np.where(moved[:, None], speed, old) - old)
        old = np.where(known[:, None, None], self._turn_speed[rows], 0)
        turn = np.where(moved[:, None, None], turn, old)
        self._turn_speed[rows] = old + gain[..., None] * (turn - old)
        self._root[rows], self._rotations[rows], self._time[rows] = root, rotations, time_s


class _Prior:
    """What the past says: predicted pose and how far from it a frame may lead."""

    def __init__(
        self, root: Float, rotations: Float, dt: Float, known: NDArray[np.bool_], far: Float,
        far_sigma: Float, w: FitWeights, root_speed: Float, turn_speed: Float,
    ) -> None:  # fmt: skip
        # from the predicted pose, and from the middle of every joint's range
        self.inverse = np.empty((len(root), 2, _J, 4))
        self.inverse[:, 0], self.inverse[:, 1] = sk.conjugate(rotations), sk.FROM_MIDDLE
        steps = np.maximum(dt, 1e-3) * 30
        spread = np.sqrt(steps)
        turning = np.abs(sk.turns(turn_speed))
        sigma = w.turn_floor_rad * spread[:, None] + w.turn_share * dt[:, None] * turning
        self.turn = np.where(known[:, None], 1 / sigma**2, 0.0)
        self.firm = np.full((len(root), sk.DOF_COUNT), 1 / w.rest_rad**2)  # second derivatives
        self.firm[:, :6] = 0
        self.firm[:, 3:] += self.turn
        walked = np.sqrt((root_speed * root_speed).sum(-1)) * dt
        across = w.shift_floor_m * spread + w.shift_share * walked
        along = w.depth_floor_m * spread + w.depth_share * walked
        ray = far / np.sqrt((far * far).sum(-1, keepdims=True))
        line = ray[:, :, None] * ray[:, None, :]
        rest = _EYE - line
        a = np.where(known, 1 / across**2, 0.0)[:, None, None]
        b = np.where(known, 1 / along**2, 0.0)[:, None, None]
        c = (1 / (w.depth_ratio * np.maximum(far_sigma, 0.02)) ** 2)[:, None, None]
        past, now = a * rest + b * line, c * (line + 0.01 * rest)
        # where the root is wanted, and how much: by the past and by Stage II
        self.root_weight = past + now
        self.root_pull = past @ root[..., None] + now @ far[..., None]

    def of(self, which: Rows) -> _Prior:
        """Return that of some of the people."""
        return _part(self, which)


class _Measure:
    """What the frame says: targets and weights of the 3D and 2D residuals."""

    def __init__(self, target: Float, e: Evidence, offsets: Float, w: FitWeights) -> None:
        self.target, self.offsets = target, offsets
        sigma = w.points_m * np.maximum(e.sigma_m, 0.02)
        self.weight3 = 1 / sigma
        # what is surely known is soon many expected errors off: of _WRONG_M at the least
        self.ease = np.minimum(sigma / _WRONG_M, 1)
        self.seen = np.isfinite(e.rays[..., 0] + e.rays[..., 1]) & (e.confidence > 0)
        self.rays = np.where(self.seen[..., None], e.rays, 0.0)
        self.pixel = e.pixel * w.image_px
        self.share = self.seen / np.where(_OF_FACE, w.face_ratio, 1.0)
        self.doubt_m = w.image_doubt_m * np.maximum(w.image_sure - e.confidence, 0.0)

    def of(self, which: Rows) -> _Measure:
        """Return that of some of the people."""
        return _part(self, which)


_Arrays = TypeVar("_Arrays", _Prior, _Measure)


def _part(of: _Arrays, which: Rows) -> _Arrays:
    """Return the rows of every array of an object."""
    part = copy.copy(of)
    for name, value in vars(of).items():
        if isinstance(value, np.ndarray):
            setattr(part, name, value[which])
    return part


def _misfit(residual: Float, ease: Float) -> Float:
    """Return how far joints are off, from residuals (N, J, 3) in expected errors.

    That is (N, 2) the median, and the third largest of residuals times `ease` (N, J).
    """
    away = np.sqrt(np.vecdot(residual, residual))
    eased = away * ease
    away.partition(_J // 2, axis=-1)  # _J is odd
    eased.partition(_J - _LIMB, axis=-1)
    return np.stack([away[:, _J // 2], eased[:, -_LIMB]], 1)


def _iterate(
    root: Float, rotations: Float, m: _Measure, prior: _Prior, w: FitWeights, work: Float
) -> tuple[Float, Float, Float, Float]:
    """Return the pose after one damped Gauss-Newton step, and what is known of the step.

    That is how far the pose before it was off, the median and the third largest over joints of
    the distance to Stage II's in expected errors (N, 2), and the largest turn or shift of the step
    (N,), rad or m. `work` (N or more, rows, DOF_COUNT) is overwritten.
    """
    points, frames = sk.forward(root, rotations, m.offsets)
    n, d, split = len(root), sk.DOF_COUNT, 3 * _J
    forms, r = np.empty((n, split + 2 * _K, 6)), np.empty((n, split + 2 * _K))
    at = np.empty((n, _J + _K, 4))  # 1 x y z from the pelvis
    at[..., 0] = 1
    shown = sk.marks(points)
    np.subtract(points[:, :_J], root[:, None], out=at[:, :_J, 1:])
    np.subtract(shown, root[:, None], out=at[:, _J:, 1:])

    r3 = r[:, :split].reshape(n, _J, 3)  # a view: writes go to r
    np.multiply(at[:, :_J, 1:] - m.target, m.weight3[..., None], out=r3)
    misfit = _misfit(r3, m.ease)
    at[:, :_J] *= m.weight3[..., None]
    forms[:, :split] = (at[:, :_J].reshape(-1, 4) @ _FORMS_3D).reshape(n, -1, 6)

    z = np.maximum(shown[..., 2], 0.1)
    q = np.ones((n, _K, 3))  # 1 x/z y/z
    np.divide(shown[..., :2], z[..., None], out=q[..., 1:])
    depth = np.maximum(root[:, 2:], 0.1)
    error = (q[..., 1:] - m.rays) * depth[..., None]
    weight = m.share / (w.image_m + m.pixel * depth + m.doubt_m)
    outlier = 1 + np.vecdot(error, error) / w.image_outlier_m**2
    weight *= (shown[..., 2] > 0.1) / np.sqrt(outlier)
    np.multiply(error, weight[..., None], out=r[:, split:].reshape(n, _K, 2))
    q *= (weight * depth / z)[..., None]
    outer = (at[:, _J:, :, None] * q[:, :, None]).reshape(-1, 12)
    forms[:, split:] = (outer @ _FORMS_2D).reshape(n, -1, 6)

    jac = work[:n]
    sk.jacobian(forms, _MOVED, points, frames, jac)
    turned = jac.swapaxes(1, 2)
    A = turned @ jac
    g = (turned @ r[..., None])[..., 0]
    A[:, :3, :3] += prior.root_weight
    g[:, :3] += (prior.root_weight @ root[..., None] - prior.root_pull)[..., 0]

    off = sk.turns(sk.log_map(sk.quaternion_multiply(prior.inverse, rotations[:, None])))
    c = off[:, 1, 3:]
    beyond = c - np.minimum(np.maximum(c, sk.DOF_LOW), sk.DOF_HIGH)
    g[:, 3:] += prior.turn * off[:, 0]
    g[:, 6:] += beyond / w.limit_rad**2 + (c - _REST_COORDINATES) / w.rest_rad**2
    diagonal = A.reshape(n, -1)[:, :: d + 1]  # a view
    diagonal += prior.firm
    diagonal[:, 6:] += (beyond != 0) / w.limit_rad**2
    diagonal *= 1 + w.damping
    change = np.linalg.solve(A, g[..., None])[..., 0]
    np.negative(change, out=change)
    change[:, 3:] = np.minimum(np.maximum(change[:, 3:], -0.6), 0.6)
    moved = np.abs(change).max(1)
    root, rotations = sk.step(root, rotations, change)
    return root, rotations, misfit, moved


def _rest_coordinates() -> Float:
    """Return where the weak pull leads: standing with hanging arms, everything else at rest."""
    rotations = np.zeros((1, _J, 4))
    rotations[..., 3] = 1
    half = np.sqrt(0.5)
    rotations[0, INDEX["l_shoulder"]] = (0, 0, -half, half)
    rotations[0, INDEX["r_shoulder"]] = (0, 0, half, half)
    return np.asarray(sk.coordinates(rotations)[0])


_REST_COORDINATES = _rest_coordinates()
