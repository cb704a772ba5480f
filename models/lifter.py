"""Stage II networks: features of seen people to 21 root-relative joints with expected errors.

Two forms are offered. `FullBody` reads everything at once. `PartWise` has besides a network for the
torso and one for each limb, which see only their own joints, and a gate that decides from the
scores, joint by joint, whom to believe: a limb is then not disturbed by an odd pose elsewhere.

Sizes differ from the paper's (160-256-256-128 with batch normalisation): residual layers without
normalisation, which trained well in minutes; the paper's widths were not tried.

Source: Mehta et al. 2020 (XNect), section 4.2, and the authors' release for the part-wise form.
"""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor, nn

from manypose.pose.joints import CARRIED, INDEX, INDEX_2D, JOINTS, JOINTS_2D
from manypose.pose.lifting import FEATURE_COUNT, HAS_BONES, SIZE, UP_COLUMNS

_J = len(JOINTS)
# Expected errors the network may state: 5 mm to 1.6 m (logarithms).
LOG_SIGMA_MIN, LOG_SIGMA_MAX = -5.3, 0.5

# A part: its 2D joints, and the 3D joints it answers for.
_TRUNK_2D = (*JOINTS_2D[:7], "l_hip", "r_hip", "neck", "head_top", "pelvis")
_TRUNK = (
    "head_top",
    "neck",
    "r_shoulder",
    "l_shoulder",
    "r_hip",
    "l_hip",
    "pelvis",
    "spine",
    "head",
)
_LIMBS: tuple[tuple[tuple[str, ...], tuple[str, ...]], ...] = tuple(
    (tuple(f"{s}_{n}" for n in seen), tuple(f"{s}_{n}" for n in answered))
    for s in "rl"
    for seen, answered in (
        (("shoulder", "elbow", "wrist"), ("elbow", "wrist", "hand")),
        (("hip", "knee", "ankle"), ("knee", "ankle", "foot")),
    )
)


def _columns(names: tuple[str, ...]) -> list[int]:
    """Return the feature columns that belong to these 2D joints, and those of the whole person."""
    joints = [INDEX_2D[n] for n in names]
    own = [3 * k + i for k in joints for i in range(3)]
    first = 3 * len(JOINTS_2D)
    bones = [first + 3 * c + i for c, (k, _) in enumerate(CARRIED) if k in joints for i in range(3)]
    return [*own, *bones, *range(SIZE, UP_COLUMNS.stop)]


class Residual(nn.Module):
    """A stack of linear layers with a skip over every two; (B, inputs) to (B, outputs)."""

    def __init__(self, inputs: int, width: int, blocks: int, outputs: int, drop: float = 0) -> None:
        super().__init__()
        self.first = nn.Linear(inputs, width)
        self.layers = nn.ModuleList([nn.Linear(width, width) for _ in range(2 * blocks)])
        self.last = nn.Linear(width, outputs)
        self.drop = nn.Dropout(drop)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return the outputs and the last hidden layer (B, width)."""
        h = self.first(x).relu()
        for a, b in zip(self.layers[::2], self.layers[1::2], strict=True):
            h = h + self.drop(b(a(h).relu()).relu())
        return self.last(h), h


class FullBody(nn.Module):
    """One network for the whole body."""

    def __init__(self, width: int = 512, blocks: int = 2, drop: float = 0.05) -> None:
        super().__init__()
        self.body = Residual(FEATURE_COUNT, width, blocks, 4 * _J, drop)

    def forward(self, features: Tensor) -> Tensor:
        """Return (B, J, 4): joints in metres relative to the root, logarithm of the error."""
        out, _ = self.body(features)
        return cast(Tensor, out.view(-1, _J, 4))


class PartWise(nn.Module):
    """A full-body network, networks for torso and limbs, and a gate between them."""

    def __init__(self, width: int = 512, blocks: int = 2, drop: float = 0.05) -> None:
        super().__init__()
        self.full = FullBody(width, blocks, drop)
        trunk = _columns(_TRUNK_2D)
        self.trunk = Residual(len(trunk), 192, 1, 4 * len(_TRUNK))
        self.limbs = nn.ModuleList(
            [Residual(len(_columns(seen)) + 192, 128, 1, 4 * 3) for seen, _ in _LIMBS]
        )
        self.gate = nn.Sequential(
            nn.Linear(len(JOINTS_2D) + 1, 96), nn.ReLU(), nn.Linear(96, 128), nn.ReLU(),
            nn.Linear(128, _J),
        )  # fmt: skip
        for i, names in enumerate((_TRUNK_2D, *(seen for seen, _ in _LIMBS))):
            self.register_buffer(f"columns_{i}", torch.tensor(_columns(names)), persistent=False)
        answered = [*_TRUNK, *(n for _, names in _LIMBS for n in names)]
        order = [answered.index(n) for n in JOINTS]
        self.register_buffer("order", torch.tensor(order), persistent=False)
        self.scores = [3 * k + 2 for k in range(len(JOINTS_2D))] + [HAS_BONES]

    def parts(self, features: Tensor) -> Tensor:
        """Return the answer (B, J, 4) of the networks for torso and limbs."""
        out, hidden = self.trunk(features[:, cast(Tensor, self.columns_0)])
        answers = [out.view(-1, len(_TRUNK), 4)]
        for i, limb in enumerate(self.limbs):
            own = features[:, cast(Tensor, getattr(self, f"columns_{i + 1}"))]
            answers.append(limb(torch.cat([own, hidden], 1))[0].view(-1, 3, 4))
        return torch.cat(answers, 1)[:, cast(Tensor, self.order)]

    def open(self, features: Tensor) -> Tensor:
        """Return the gate (B, J, 1): the share of the parts' answer."""
        gate: Tensor = self.gate(features[:, self.scores]).sigmoid()
        return gate[..., None]

    def forward(self, features: Tensor) -> Tensor:
        """Return (B, J, 4): joints in metres relative to the root, logarithm of the error."""
        gate = self.open(features)
        mixed: Tensor = gate * self.parts(features) + (1 - gate) * self.full(features)
        return mixed


FORMS: dict[str, type[FullBody] | type[PartWise]] = {"full": FullBody, "parts": PartWise}
assert {INDEX[n] for n in (*_TRUNK, *(n for _, names in _LIMBS for n in names))} == set(range(_J))
