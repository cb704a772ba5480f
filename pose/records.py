"""What crosses the borders between stages: frozen records of numpy arrays.

A stage reads records and builds new ones; arrays are read-only by agreement. K = 20 joints in 2D
(`joints.JOINTS_2D`), J = 21 in 3D (`joints.JOINTS`), L limbs, h x w the grid of the maps.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from manypose.calib.camera import Camera
from manypose.pose.joints import JOINTS, JOINTS_2D, LIMBS

Float = NDArray[np.floating[Any]]
UInt8 = NDArray[np.uint8]
Box = tuple[int, int, int, int]  # left, top, right, bottom px of a part of a picture, ends excluded

_K, _J, _L = len(JOINTS_2D), len(JOINTS), len(LIMBS)


def _check(what: str, array: NDArray[Any], *shape: int | None) -> None:
    """Raise ValueError unless the array has this shape (None: any length)."""
    got = array.shape
    if got == shape:
        return
    if len(got) != len(shape) or any(w is not None and g != w for g, w in zip(got, shape)):
        raise ValueError(f"{what}: shape {got}, wanted {shape}")


class Picture(Protocol):
    """A picture that is made an array only as far as somebody asks for it.

    One that is far away may also have `resized_parts(outs, parts)`, several parts in one journey;
    see `models.preprocess.scale_parts`.
    """

    @property
    def shape(self) -> tuple[int, int, int]:
        """Height, width, 3."""

    def whole(self) -> UInt8:
        """Return all of it, BGR (H, W, 3)."""

    def resized(self, out: UInt8, part: Box | None = None) -> None:
        """Write it, or a part of it, scaled to the size of `out` (bilinear), as BGR to `out`."""

    def pixels(self, y: NDArray[np.intp], x: NDArray[np.intp]) -> UInt8:
        """Return BGR at these px, in the shape that y and x broadcast to, and 3."""


@dataclass(frozen=True, slots=True, eq=False)
class Frame:
    """One picture, BGR (H, W, 3) uint8, upright; its time in seconds, index and camera.

    `time_s` never runs back within a source; a gap in `index` counts dropped frames. Decoders give
    a `Picture`: the networks, who need a small one, and the tracker, who looks at some pixels, are
    spared the whole; `image` is the array whatever it was.
    """

    picture: UInt8 | Picture
    time_s: float
    index: int
    camera: Camera

    def __post_init__(self) -> None:
        if isinstance(self.picture, np.ndarray):
            _check("Frame.image", self.picture, None, None, 3)

    @property
    def image(self) -> UInt8:
        """The picture, BGR (H, W, 3)."""
        picture = self.picture
        return picture if isinstance(picture, np.ndarray) else picture.whole()

    @property
    def shape(self) -> tuple[int, int]:
        """Height and width of the picture, px."""
        h, w, _ = self.picture.shape
        return h, w

    def pixels(self, y: NDArray[np.intp], x: NDArray[np.intp]) -> UInt8:
        """Return BGR (..., 3) at px y, x, which broadcast and must lie in the picture."""
        picture = self.picture
        return picture[y, x] if isinstance(picture, np.ndarray) else picture.pixels(y, x)


@dataclass(frozen=True, slots=True, eq=False)
class NetworkOutput:
    """The maps of one frame on a grid of h x w cells.

    heatmaps (K, h, w) in [0, 1]; pafs (2 L, h, w): x then y of each limb's unit vector; encodings
    (3 J, h, w): bone vectors in units of `joints.BONE_UNIT_M`, or None; to_image (2, 3): cell
    index (x, y, 1) to image px, where whole cell indices are cell centres and whole px are pixel
    centres.
    """

    heatmaps: Float
    pafs: Float
    encodings: Float | None
    to_image: Float

    def __post_init__(self) -> None:
        _, h, w = self.heatmaps.shape
        _check("NetworkOutput.heatmaps", self.heatmaps, _K, h, w)
        _check("NetworkOutput.pafs", self.pafs, 2 * _L, h, w)
        if self.encodings is not None:
            _check("NetworkOutput.encodings", self.encodings, 3 * _J, h, w)
        _check("NetworkOutput.to_image", self.to_image, 2, 3)


Network = Callable[[Sequence[Frame]], "list[NetworkOutput]"]


ALONE = -1


@dataclass(frozen=True, slots=True, eq=False)
class Person2D:
    """One person in one picture.

    joints_px (K, 2) image px, NaN = not seen; confidence (K,) in [0, 1], 0 = not seen; encoding
    (K, 3 J) all bone vectors read at each joint (units of `joints.BONE_UNIT_M`, NaN where the
    joint is not seen) or None; score: how sure the person is, in [0, 1]; parts (K,): joints of the
    same number are connected by limbs, those of different ones were put together because they fit
    one body; None: all are connected; ALONE: they were read in a picture of this person's own.
    """

    joints_px: Float
    confidence: Float
    score: float
    encoding: Float | None = None
    parts: NDArray[np.integer[Any]] | None = None

    def __post_init__(self) -> None:
        _check("Person2D.joints_px", self.joints_px, _K, 2)
        _check("Person2D.confidence", self.confidence, _K)
        if self.parts is not None:
            _check("Person2D.parts", self.parts, _K)
        if self.encoding is not None:
            _check("Person2D.encoding", self.encoding, _K, 3 * _J)

    @property
    def part_numbers(self) -> NDArray[np.integer[Any]]:
        """The number (K,) of every joint's part, 0 where none are told."""
        return np.zeros(_K, np.int8) if self.parts is None else self.parts


@dataclass(frozen=True, slots=True, eq=False)
class Person3D:
    """A person with a 3D pose.

    joints_rel_m (J, 3) relative to the pelvis, camera axes, metres; sigma_m (J,) expected error;
    root_m (3,) the pelvis in the camera frame, for a body of this size; root_sigma_m its expected
    error along the ray. size_error: expected error of the log of the body's size; without a clue,
    that of an average adult.
    """

    seen: Person2D
    joints_rel_m: Float
    sigma_m: Float
    root_m: Float
    root_sigma_m: float
    size_error: float = 0.06

    def __post_init__(self) -> None:
        _check("Person3D.joints_rel_m", self.joints_rel_m, _J, 3)
        _check("Person3D.sigma_m", self.sigma_m, _J)
        _check("Person3D.root_m", self.root_m, 3)

    @property
    def lifted(self) -> bool:
        """Whether Stage II has been asked about this person; see `unlifted`."""
        return not math.isnan(self.root_sigma_m)


_NO_JOINTS, _NO_ERRORS = np.full((_J, 3), np.nan), np.full(_J, np.inf)


def unlifted(seen: Person2D) -> Person3D:
    """Return a person still to be lifted: all numbers are NaN, errors of joints infinite."""
    return Person3D(seen, _NO_JOINTS, _NO_ERRORS, _NO_JOINTS[0], math.nan)


@dataclass(frozen=True, slots=True, eq=False)
class Detections:
    """All people of one frame, without memory of other frames, and the milliseconds spent."""

    frame: Frame
    people: tuple[Person3D, ...]
    stage_ms: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, eq=False)
class TrackedPerson:
    """A person followed over time.

    track_id is never used again; score in [0, 1]; joints_px (K, 2) and confidence (K,) as in
    Person2D (filtered); joints_m (J, 3) camera frame, metres, NaN = missing; state (J,) one of
    `joints.MISSING, SEEN, INFERRED, EXTRAPOLATED`; rotations (J, 4) local quaternions x y z w
    of the kinematic skeleton, or None; box_px (4,) x y w h round the seen joints.
    """

    track_id: int
    score: float
    joints_px: Float
    confidence: Float
    joints_m: Float
    state: UInt8
    box_px: Float
    rotations: Float | None = None

    def __post_init__(self) -> None:
        _check("TrackedPerson.joints_px", self.joints_px, _K, 2)
        _check("TrackedPerson.confidence", self.confidence, _K)
        _check("TrackedPerson.joints_m", self.joints_m, _J, 3)
        _check("TrackedPerson.state", self.state, _J)
        _check("TrackedPerson.box_px", self.box_px, 4)

    # The short names of the result files, for those who read results in Python.
    @property
    def id(self) -> int:
        """The track_id."""
        return self.track_id

    @property
    def kp3d(self) -> Float:
        """Joints (J, 3) in the camera frame, metres, NaN = missing."""
        return self.joints_m

    @property
    def kp2d(self) -> Float:
        """Joints (K, 3): x, y in px, NaN = not seen, and confidence."""
        return np.concatenate([self.joints_px, self.confidence[:, None]], 1)


@dataclass(frozen=True, slots=True, eq=False)
class FrameResult:
    """The result of one frame: people in the order of their ids, milliseconds per stage.

    up: unit vector (3,) in camera axes, known of the camera or learnt from people; None = not yet.
    """

    frame: Frame
    people: tuple[TrackedPerson, ...]
    stage_ms: Mapping[str, float] = field(default_factory=dict)
    up: Float | None = None

    @property
    def t(self) -> float:
        """The frame's time in seconds."""
        return self.frame.time_s

    @property
    def persons(self) -> tuple[TrackedPerson, ...]:
        """The people, under the name the result files use."""
        return self.people


@dataclass(frozen=True, slots=True, eq=False)
class Found2D:
    """People of one frame as a 2D front end finds them, and the milliseconds spent by stage."""

    people: tuple[Person2D, ...]
    stage_ms: Mapping[str, float] = field(default_factory=dict)


# A 2D front end: our Stage I with its grouping, or a network of the user's own.
FrontEnd = Callable[[Sequence[Frame]], "list[Found2D]"]
