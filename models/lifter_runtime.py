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
from manypose.pose.lifting import FEATURE_COUNT, HAS_BONES, Lifter

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


def _full(held: dict[str, NDArray[Any]], prefix: str = "") -> Forward:
    body = _residual(held, f"{prefix}body.")
    return lambda features: body(features)[0]


def _parts(held: dict[str, NDArray[Any]]) -> Forward:
    full, trunk = _full(held, "full."), _residual(held, "trunk.")
    limbs = [_residual(held, f"limbs.{i}.") for i in range(_LIMB_COUNT)]
    columns = [held[f"columns_{i}"] for i in range(_LIMB_COUNT + 1)]
    order = held["order"]
    gate_layers = [(held[f"gate.{i}.weight"].T, held[f"gate.{i}.bias"]) for i in (0, 2, 4)]

    def forward(features: Float32) -> Float32:
        first, hidden = trunk(features[:, columns[0]])
        answers = [first.reshape(len(features), -1, 4)]
        for limb, own in zip(limbs, columns[1:], strict=True):
            out, _ = limb(np.concatenate([features[:, own], hidden], 1))
            answers.append(out.reshape(len(features), -1, 4))
        parts = np.concatenate(answers, 1)[:, order]
        g = features[:, _SCORES]
        for i, (w, b) in enumerate(gate_layers):
            g = g @ w + b
            g = np.maximum(g, 0) if i < len(gate_layers) - 1 else 1 / (1 + np.exp(-g))
        mixed = g[..., None] * parts + (1 - g[..., None]) * full(features).reshape(-1, _J, 4)
        return np.asarray(mixed.reshape(len(features), -1))

    return forward


FORMS: dict[str, Callable[[dict[str, NDArray[Any]]], Forward]] = {"full": _full, "parts": _parts}


def _residual(
    held: dict[str, NDArray[Any]], prefix: str
) -> Callable[[Float32], tuple[Float32, Float32]]:
    """Return the forward pass of `models.lifter.Residual`."""

    def layer(name: str) -> tuple[Float32, Float32]:
        weight, bias = held[f"{prefix}{name}.weight"], held[f"{prefix}{name}.bias"]
        return np.ascontiguousarray(weight.T), bias

    first, last = layer("first"), layer("last")
    inner: list[tuple[Float32, Float32]] = []
    while f"{prefix}layers.{len(inner)}.weight" in held:
        inner.append(layer(f"layers.{len(inner)}"))

    def forward(x: Float32) -> tuple[Float32, Float32]:
        h = np.maximum(x @ first[0] + first[1], 0)
        for (wa, ba), (wb, bb) in zip(inner[::2], inner[1::2], strict=True):
            h = h + np.maximum(np.maximum(h @ wa + ba, 0) @ wb + bb, 0)
        return h @ last[0] + last[1], h

    return forward
