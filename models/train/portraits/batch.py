"""Batches of portraits: patches drawn, moved, turned, mirrored and coloured on the device."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from manypose.models.train import colours
from manypose.models.train.portraits.clues import Faults, gaussians, simulated, told_again
from manypose.models.train.portraits.patches import ROOM, Patches
from manypose.models.train.targets import bones
from manypose.pose.joints import BONE_UNIT_M, INDEX_2D, JOINTS_2D, MIRROR, MIRROR_2D
from manypose.pose.portraits import HEIGHT, WIDTH

_HIDDEN = 0.6  # weight of a joint that is labelled but not seen
_UNLABELLED = 0.1  # of one that is not labelled on somebody whose joints are
_LOWER = [INDEX_2D[n] for n in ("l_hip", "r_hip", "l_knee", "r_knee", "l_ankle", "r_ankle")]
_UPPER = sorted(set(range(len(JOINTS_2D))) - {*_LOWER, INDEX_2D["pelvis"]})
_ENOUGH = 4  # labelled joints of a half that is shown alone


@dataclass(frozen=True, slots=True)
class Variation:
    """How portraits vary: standard deviations, or ranges of uniform chance."""

    turned_rad: float = 0.25
    turned_share: float = 0.5  # of the portraits
    larger: tuple[float, float] = (-0.25, 0.3)  # logarithm of the part shown
    moved: float = 0.07  # of the height
    half: float = 0.2  # share of which half the body is shown
    mirrored: bool = True
    colour: bool = True
    faults: Faults = field(default_factory=Faults)  # of what was read before


@dataclass(frozen=True, slots=True, eq=False)
class Batch:
    """Portraits with what is wanted of them.

    images (B, 3, H, W) in [0, 1]; clues (B, 2 K, h, w) in [0, 1]: maps of what was read before;
    joints_px (B, K, 2); heatmaps (B, K, h, w), their highest 1;
    seen (B, K): the joint is in the portrait; weight (B, K) of what is known of it; bones (B, 3 J)
    in units of BONE_UNIT_M and weight_bones (B, 3 J).
    """

    images: Tensor
    clues: Tensor
    joints_px: Tensor
    heatmaps: Tensor
    seen: Tensor
    weight: Tensor
    bones: Tensor
    weight_bones: Tensor


class Drawer:
    """Draws batches of the patches that lie on a device, or on disk for a CPU."""

    def __init__(self, patches: Patches, device: torch.device, rng: torch.Generator) -> None:
        self._images = patches.images
        self._on_device: Tensor | None = None
        if device.type != "cpu":
            self._on_device = torch.from_numpy(np.array(patches.images)).to(device)
        self._tables = [
            torch.from_numpy(np.asarray(v)).to(device)
            for v in (
                patches.joints_px,
                patches.other_px,
                patches.read_px,
                patches.known,
                patches.joints_m,
                patches.weight_3d,
            )
        ]
        self._weight = torch.from_numpy(patches.weight.astype(np.float64)).cumsum(0).to(device)
        self.rng = rng
        self.device = device

    def take(self, count: int, how: Variation) -> Batch:
        """Return a batch of so many portraits."""
        at = torch.rand(count, generator=self.rng, device=self.device, dtype=torch.float64)
        chosen = torch.searchsorted(self._weight, at * self._weight[-1]).clamp_max(
            len(self._weight) - 1
        )
        joints, other, read, known, joints_m, weight_3d = (t[chosen] for t in self._tables)
        pixels = self._pixels(chosen)
        return made(pixels, joints, other, read, known, joints_m, weight_3d, how, self.rng)

    def _pixels(self, chosen: Tensor) -> Tensor:
        if self._on_device is not None:
            return self._on_device[chosen]
        # in the order of the disk, then as drawn
        order = chosen.argsort()
        found = torch.from_numpy(self._images[chosen[order].numpy()])
        return found[order.argsort()]


def made(
    patches: Tensor, joints: Tensor, other: Tensor, read: Tensor, known: Tensor,
    joints_m: Tensor, weight_3d: Tensor, how: Variation, rng: torch.Generator,
) -> Batch:  # fmt: skip
    """Return a batch of patches (B, S, S, 3) uint8 with their labels, each varied by chance."""
    b, side = patches.shape[:2]
    device = patches.device

    def chance(*shape: int) -> Tensor:
        return torch.rand(b, *shape, generator=rng, device=device)

    unit = side / (ROOM * HEIGHT)  # patch px of a portrait's px, as it was cut
    centre, grown = _parts(joints, how, chance(2), side)
    scale = grown * torch.exp(how.larger[0] + (how.larger[1] - how.larger[0]) * chance())
    normal = torch.randn(b, 3, generator=rng, device=device).clamp(-2, 2)
    centre = centre + how.moved * HEIGHT * unit * scale[:, None] * normal[:, :2]
    turn = how.turned_rad * normal[:, 2] * (chance() < how.turned_share)
    mirrored = (chance() < 0.5) if how.mirrored else torch.zeros(b, dtype=torch.bool, device=device)
    flip = torch.where(mirrored, -1.0, 1.0)
    cos, sin = turn.cos(), turn.sin()
    # portrait px (from its middle) -> patch px (from the centre): turned, then seen in the mirror
    back = (
        unit
        * scale[:, None, None]
        * torch.stack([torch.stack([cos * flip, -sin], 1), torch.stack([sin * flip, cos], 1)], 1)
    )
    images = _warped(patches, back, centre)
    forth = torch.linalg.inv(back)
    middle = torch.tensor([(WIDTH - 1) / 2, (HEIGHT - 1) / 2], device=device)
    sides, who = list(MIRROR_2D), mirrored[:, None]

    def placed(joints: Tensor) -> tuple[Tensor, Tensor]:
        px = torch.einsum("bij,bkj->bki", forth, joints[..., :2] - centre[:, None]) + middle
        flag = joints[..., 2]
        px = torch.where(who[..., None], px[:, sides], px)
        return px, torch.where(who, flag[:, sides], flag)

    (px, flag), (other_px, other_flag) = placed(joints), placed(other)
    known = torch.where(who, known[:, sides], known)
    if how.colour:
        images = colours.vary(images, rng)
    heat, seen, weight = _maps(px, flag, known)
    # where nobody is, somebody was read whom another portrait shows
    nobody = ~(flag > 0).any(1, keepdim=True)
    wrong_px = torch.where(nobody[..., None], px.roll(1, 0), px)
    wrong = torch.where(nobody, flag.roll(1, 0), flag) > 0
    clues = simulated(wrong_px, wrong, other_px, other_flag > 0, how.faults, rng)
    found = [placed(person) for person in read.unbind(1)]
    really = (read[:, 0, :, 2] > 0).any(1) & (chance() < how.faults.real)
    told = told_again(found, how.faults, rng)
    clues = torch.where(really[:, None, None, None], told, clues)
    body, weight_body = _body(joints_m, weight_3d, mirrored, turn)
    return Batch(images, clues, px, heat, seen, weight, body, weight_body)


def _parts(joints: Tensor, how: Variation, chance: Tensor, side: int) -> tuple[Tensor, Tensor]:
    """Return the middle (B, 2) of what is shown, and its size against the whole box (B,)."""
    b = len(joints)
    middle = joints.new_full((b, 2), (side - 1) / 2)
    size = joints.new_ones(b)
    for half, low in ((_UPPER, 0.0), (_LOWER, 0.65)):
        seen = joints[:, half, 2] > 0
        xy = joints[:, half, :2]
        first = torch.where(seen[..., None], xy, torch.inf).amin(1)
        last = torch.where(seen[..., None], xy, -torch.inf).amax(1)
        reach = (last - first).clamp_min(1)
        extent = torch.maximum(reach[:, 1], reach[:, 0] * HEIGHT / WIDTH)
        share = 1.5 * extent / (side / ROOM)
        use = (seen.sum(1) >= _ENOUGH) & (chance[:, 0] < how.half) & (chance[:, 1] >= low)
        use &= (share > 0.25) & (share < 1)
        middle = torch.where(use[:, None], (first + last) / 2, middle)
        size = torch.where(use, share, size)
    return middle, size


def _warped(patches: Tensor, back: Tensor, centre: Tensor) -> Tensor:
    """Return portraits (B, 3, H, W) in [0, 1] of patches (B, S, S, 3)."""
    side = patches.shape[1]
    device = patches.device
    y = torch.arange(HEIGHT, device=device, dtype=torch.float32) - (HEIGHT - 1) / 2
    x = torch.arange(WIDTH, device=device, dtype=torch.float32) - (WIDTH - 1) / 2
    grid = torch.stack(torch.meshgrid(x, y, indexing="xy"), -1)
    at = torch.einsum("bij,hwj->bhwi", back, grid) + centre[:, None, None]
    pixels = patches.permute(0, 3, 1, 2).float() / 255
    return functional.grid_sample(
        pixels, (2 * at + 1) / side - 1, mode="bilinear", padding_mode="border",
        align_corners=False,
    )  # fmt: skip


def _maps(px: Tensor, flag: Tensor, known: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return Gaussians (B, K, h, w) at the joints, which are there, and weights (B, K)."""
    labelled = flag > 0
    inside = ((px >= -0.5) & (px < px.new_tensor([WIDTH - 0.5, HEIGHT - 0.5]))).all(-1)
    seen = labelled & inside
    heat = gaussians(px) * seen[..., None, None]
    weight = torch.where(flag > 1, 1.0, torch.where(labelled, _HIDDEN, _UNLABELLED))
    anybody = labelled.any(1, keepdim=True)
    weight = torch.where(anybody, weight, 1.0) * known
    return heat, seen, weight


def _body(
    joints_m: Tensor, weight_3d: Tensor, mirrored: Tensor, turn: Tensor
) -> tuple[Tensor, Tensor]:
    """Return the bones (B, 3 J) of people mirrored and turned as their portraits, and weights."""
    who = mirrored[:, None]
    joints_m = torch.where(who[..., None], joints_m[:, list(MIRROR)], joints_m)
    weight = torch.where(who, weight_3d[:, list(MIRROR)], weight_3d)
    x, y, z = joints_m.unbind(-1)
    cos, sin = turn.cos()[:, None], turn.sin()[:, None]
    # what lies in the picture is turned by -turn, then mirrored
    x, y = cos * x + sin * y, cos * y - sin * x
    x = torch.where(who, -x, x)
    vectors = bones(torch.stack([x, y, z], -1)) / BONE_UNIT_M
    good = torch.isfinite(vectors).all(-1)
    weight = torch.where(good, weight, 0.0)[..., None].expand_as(vectors)
    vectors = torch.where(good[..., None], vectors, 0.0)
    return vectors.flatten(1), weight.flatten(1)
