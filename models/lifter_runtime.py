"""Run Stage II from its exported weights with numpy alone: a few small products of matrices.

A file of weights (.npz, no pickled objects) holds "form" and the layers of `models.lifter` under
their torch names, in half precision, and for the part-wise form the feature columns of each part.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from manypose.errors import ARCHIVE_DAMAGE, WeightsError
from manypose.models import weights
from manypose.pose.joints import JOINTS, JOINTS_2D
from manypose.pose.lifting import BONE_COLUMNS, FEATURE_COUNT, HAS_BONES, Lifter

if TYPE_CHECKING:
    from manypose.models.lifter import FullBody, PartWise

Float = NDArray[np.floating[Any]]
Float32 = NDArray[np.float32]
_J = len(JOINTS)
# Must equal those of models.lifter, which needs torch.
_LOG_SIGMA_MIN, _LOG_SIGMA_MAX = -5.3, 0.5
_SCORES = [3 * k + 2 for k in range(len(JOINTS_2D))] + [HAS_BONES]
_LIMB_COUNT = 4


def load_lifter(path: Path | None = None) -> Lifter:
    """Return the network of a weight file; by default that of the package, checked by its manifest.

    Raises:
        WeightsError: the file is missing, damaged or of another network.
    """
    if path is None:
        path = weights.SHIPPED / "lifter.npz"
        for row in weights.manifest(weights.SHIPPED):
            if row.kind == "stage2" and row.path == path.resolve() and path.exists():
                weights.verify(row)
    held = _read(path)
    try:
        form = FORMS[str(held.pop("form"))]
        forward = form({k: v.astype(np.float32 if v.dtype.kind == "f" else np.intp)
                        for k, v in held.items()})  # fmt: skip
        answer = forward(np.zeros((1, FEATURE_COUNT), np.float32))
        if answer.shape != (1, 4 * _J):
            raise ValueError(f"it answers with shape {answer.shape}")
    except (KeyError, ValueError, IndexError) as error:
        raise WeightsError(
            f"{path}: not the weights of this lifting network ({error}); "
            "use the file that belongs to this version"
        ) from None

    def lifter(features: Float) -> tuple[Float, Float]:
        out = forward(features.astype(np.float32, copy=False)).reshape(-1, _J, 4)
        sigma = np.exp(np.clip(out[..., 3], _LOG_SIGMA_MIN, _LOG_SIGMA_MAX))
        return out[..., :3], sigma

    return lifter


def write_lifter(path: Path, net: FullBody | PartWise) -> None:
    """Write the weights of a trained network in half precision, whole or not at all."""
    arrays: dict[str, NDArray[Any]] = {
        k: v.detach().numpy().astype(np.float16) for k, v in net.state_dict().items()
    }
    for name, buffer in net.named_buffers():
        arrays[name] = buffer.numpy().astype(np.int16)
    arrays["form"] = np.array("parts" if "order" in arrays else "full")
    part = path.with_name(path.name + ".part")
    with part.open("wb") as f:
        np.savez(f, **arrays)  # type: ignore[arg-type]
    part.replace(path)


def _read(path: Path) -> dict[str, NDArray[Any]]:
    try:
        # Opened here: np.load itself leaves a torn archive open.
        with path.open("rb") as f, np.load(f, allow_pickle=False) as z:
            return dict(z)
    except FileNotFoundError:
        raise WeightsError(f"{path}: the lifting weights are missing; reinstall manypose") from None
    except ARCHIVE_DAMAGE as error:
        raise WeightsError(f"{path}: damaged ({error}); reinstall manypose") from None


Forward = Callable[[Float32], Float32]
Layer = tuple[Float32, Float32]  # weights (inputs, outputs) and bias


def _full(held: dict[str, NDArray[Any]]) -> Forward:
    """Return the forward pass of `models.lifter.FullBody`."""
    enter, inner = _entrance(*_layer(held, "body.first")), _inner(held, "body.")
    last, bias = _layer(held, "body.last")
    return lambda features: _residual(np.maximum(enter(features), 0), inner) @ last + bias


def _parts(held: dict[str, NDArray[Any]]) -> Forward:
    """Return the forward pass of `models.lifter.PartWise`.

    The matrices are small and calls count. So everything that reads the features is one matrix,
    the limbs go side by side, and one matrix answers for torso and limbs.
    """
    names = [f"limbs.{i}." for i in range(_LIMB_COUNT)]
    full, trunk = _inner(held, "full.body."), _inner(held, "trunk.")
    limbs = [
        (np.stack([w for w, _ in side]), np.stack([b for _, b in side])[:, None])
        for side in zip(*(_inner(held, name) for name in names), strict=True)
    ]
    full_last, gate, gate_last = (
        _layer(held, name) for name in ("full.body.last", "gate.2", "gate.4")
    )
    enter, hidden = _first_of_parts(held, names)
    parts_last = _last_of_parts(held, names)
    body, torso, scores = np.cumsum(
        [len(held[f"{name}.bias"]) for name in ("full.body.first", "trunk.first", "gate.0")]
    ).tolist()

    def forward(features: Float32) -> Float32:
        count = len(features)
        h = enter(features)
        np.maximum(h[:, :scores], 0, out=h[:, :scores])
        trunk_h = _residual(h[:, body:torso], trunk)
        limbs_h = np.maximum(h[:, scores:] + trunk_h @ hidden, 0)
        limbs_h = _residual(limbs_h.reshape(count, _LIMB_COUNT, -1).swapaxes(0, 1), limbs)
        z = np.concatenate([trunk_h, limbs_h.swapaxes(0, 1).reshape(count, -1)], 1)
        parts = z @ parts_last[0] + parts_last[1]
        g = np.maximum(h[:, torso:scores] @ gate[0] + gate[1], 0) @ gate_last[0] + gate_last[1]
        whole = _residual(h[:, :body], full) @ full_last[0] + full_last[1]
        share = np.repeat(1 / (1 + np.exp(-np.maximum(g, -60))), 4, axis=1)
        return np.asarray(whole + share * (parts - whole))

    return forward


FORMS: dict[str, Callable[[dict[str, NDArray[Any]]], Forward]] = {"full": _full, "parts": _parts}


def _first_of_parts(held: dict[str, NDArray[Any]], names: list[str]) -> tuple[Forward, Float32]:
    """Return what the features do at once, and (torso's width, limbs' widths) the torso's share.

    The outputs are the first layers, before activation, of body, torso and gate, then the limbs'.
    """
    first = [_layer(held, f"{name}first") for name in names]
    own = [held[f"columns_{i + 1}"] for i in range(len(names))]
    readers = [
        (_layer(held, "full.body.first"), np.arange(FEATURE_COUNT)),
        (_layer(held, "trunk.first"), held["columns_0"]),
        (_layer(held, "gate.0"), np.array(_SCORES)),
        *(((w[: len(c)], b), c) for (w, b), c in zip(first, own, strict=True)),
    ]
    wide = np.zeros((FEATURE_COUNT, sum(len(b) for (_, b), _ in readers)), np.float32)
    at = 0
    for (weight, bias), columns in readers:
        wide[columns, at : at + len(bias)] = weight
        at += len(bias)
    hidden = np.concatenate([w[len(c) :] for (w, _), c in zip(first, own, strict=True)], 1)
    return _entrance(wide, np.concatenate([b for (_, b), _ in readers])), hidden


def _last_of_parts(held: dict[str, NDArray[Any]], names: list[str]) -> Layer:
    """Return the layer from all hidden numbers of torso and limbs to the answers for all joints."""
    last = [_layer(held, f"{name}last") for name in ("trunk.", *names)]
    rows, columns = (np.cumsum([0] + [w.shape[i] for w, _ in last]) for i in (0, 1))
    weight = np.zeros((rows[-1], columns[-1]), np.float32)
    for n, (w, _) in enumerate(last):
        weight[rows[n] : rows[n + 1], columns[n] : columns[n + 1]] = w
    order = (4 * held["order"][:, None] + np.arange(4)).ravel()
    bias = np.concatenate([b for _, b in last])
    return np.ascontiguousarray(weight[:, order]), bias[order]


def _entrance(weight: Float32, bias: Float32) -> Forward:
    """Return features times weight (inputs, outputs) plus bias; bones not read take no time."""
    weight = np.ascontiguousarray(weight)
    kept = np.delete(np.arange(FEATURE_COUNT), BONE_COLUMNS)
    few = np.ascontiguousarray(weight[kept])

    def enter(features: Float32) -> Float32:
        if features[:, BONE_COLUMNS].any():
            return features @ weight + bias
        return features[:, kept] @ few + bias

    return enter


def _layer(held: dict[str, NDArray[Any]], name: str) -> Layer:
    return np.ascontiguousarray(held[f"{name}.weight"].T), held[f"{name}.bias"]


def _inner(held: dict[str, NDArray[Any]], prefix: str) -> list[Layer]:
    """Return the layers between the first and the last one of a `models.lifter.Residual`."""
    count = 0
    while f"{prefix}layers.{count}.weight" in held:
        count += 1
    return [_layer(held, f"{prefix}layers.{i}") for i in range(count)]


def _residual(h: Float32, inner: list[Layer]) -> Float32:
    """Return the last hidden numbers (..., width) of `models.lifter.Residual` from the first."""
    for (wa, ba), (wb, bb) in zip(inner[::2], inner[1::2], strict=True):
        a = h @ wa
        a += ba
        a = np.maximum(a, 0, out=a) @ wb
        a += bb
        h = np.maximum(a, 0, out=a) + h
    return h
