"""From settings to the estimator: which network, which lifter, which follower."""

from __future__ import annotations

import dataclasses
import functools
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from manypose.app.config import Config
from manypose.app.glances import MOST, Glances
from manypose.pose.detector import Detector, Lift
from manypose.pose.estimator import Estimator, Follower, FollowerConfig
from manypose.pose.grouping import GroupingConfig
from manypose.pose.portraits import EVERYBODY, LARGEST
from manypose.pose.records import Frame, Person2D
from manypose.pose.regained import Look

if TYPE_CHECKING:
    from manypose.app.finder import Finder
    from manypose.models.portraits import Portraits


_CAREFUL = ("auto", "careful")


@dataclass(frozen=True, slots=True, eq=False)
class Engine:
    """What is loaded once and serves many videos: a Detector, and how to follow people.

    info names the network (model, sha256, runtime, device, precision, threads, and what looks at
    each person: portraits); batch is how many frames are best in work at once where nobody waits
    for the first of them: in one call of the detector, or, if it is parallel, in calls by so many
    threads (`app.flow` does either). adaptive is the network if its input size follows the rate
    (`models.adaptive`). finder is a process that may find people instead of the detector here
    (`app.finder`). lift is Stage II, for followers who put readings right; look finds people of
    whom is known where they must be. between: live frames after each seen as a whole for which
    such looks are enough.
    """

    detector: Detector
    follower_config: FollowerConfig
    info: Mapping[str, Any] = field(default_factory=dict)
    batch: int = 1
    parallel: bool = False
    adaptive: Any | None = None
    finder: Finder | None = None
    lift: Lift | None = None
    look: Look | None = None
    between: int = 0

    @property
    def find(self) -> Detector | Finder:
        """Who finds people: the other process where there is one, else the detector."""
        return self.detector if self.finder is None else self.finder

    def follower(self, *, still: bool = False) -> Follower:
        """Return a Follower without memory, for one more video; still: of photographs."""
        config = self.follower_config
        config = dataclasses.replace(config, still=still or config.still)
        return Follower(config, self.lift, self.look)

    def glances(self, follower: Follower) -> Glances | None:
        """Return what decides which frames of a live source are seen as a whole; None: all."""
        return Glances(follower, self.between) if self.look and self.between else None

    def estimator(self, *, still: bool = False) -> Estimator:
        """Return an Estimator for one more video or camera; still: for photographs."""
        return Estimator(self.detector, self.follower(still=still))


def follower_config(config: Config, *, still: bool = False) -> FollowerConfig:
    """Return the settings of the Follower; still: every picture on its own.

    Where 3D is smoothed afterwards (`run` has decided so by now) the live filter would only add its
    delay to it.
    """
    return FollowerConfig(
        filter=config.filter.preset,
        smoothed_later=config.filter.smooth not in ("auto", "none"),
        height_m=config.fit.height_m or None,
        lock_bones_after=config.fit.lock_bones_after,
        max_gap_s=config.people.max_gap_s,
        min_age=config.people.min_age,
        min_score=config.people.min_score,
        people_max=config.people.max,
        still=still,
    )


def lifting(config: Config) -> Lift:
    """Return Stage II as the settings ask for it.

    Raises:
        WeightsError: its weight file is missing or damaged.
    """
    from manypose.models.lifter_runtime import load_lifter
    from manypose.pose.lifting import LiftingConfig, lift

    # those of the networks there are today are weak
    how = LiftingConfig(encodings=config.fit.encodings, shape_only=True)
    return functools.partial(lift, lifter=load_lifter(), config=how)


def for_live(config: Config) -> Config:
    """Return the settings for pictures that somebody waits for.

    A second look at people far away doubles the lag of such pictures; then it is for those who ask
    for it, and so is a look at each person where there are many; so are the looks that photographs
    have.
    """
    model = config.model
    long_shots = "always" if model.long_shots == "always" else "never"
    portraits = {"auto": "few", "careful": "never"}.get(model.portraits, model.portraits)
    careful = "always" if model.careful == "always" else "never"
    model = dataclasses.replace(model, long_shots=long_shots, portraits=portraits, careful=careful)
    return dataclasses.replace(config, model=model)


def load_engine(config: Config, *, still: bool = False, batch: int = 1) -> Engine:
    """Load the networks of the settings, for `batch` frames in work at once.

    still: for photographs, each on its own, which are looked at more thoroughly.

    Raises:
        WeightsError: a weight file is missing or damaged.
        DeviceError: the device or runtime asked for cannot be had.
    """
    import cv2

    from manypose.models.front_end import load_front_end
    from manypose.models.preprocess import size_named

    # OpenCV's own threads fight those of the network and of the decoder.
    cv2.setNumThreads(1)
    # Threads that come back from the network wait for their turn at most so long (else 5 ms).
    sys.setswitchinterval(5e-4)
    model = config.model
    front_end = load_front_end(
        model.name,
        model.backend,
        model.device,
        model.threads,
        model.precision,
        batch,
        GroupingConfig(people_max=config.people.max),
        model.target_fps,
        config.fit.encodings,
        size_named(model.input) if model.input else None,
        _careful(config, still),
        model.close_ups,
        model.long_shots != "never",
        _portraits(config, still),
        model.portraits != "few",
        still,
    )
    info = dataclasses.asdict(front_end.info)
    lift = lifting(config)
    detector = Detector(front_end, lift, leave_lifting=True)
    limits = follower_config(config, still=still)
    adaptive = front_end.network if model.target_fps else None
    portraits = getattr(front_end, "portraits", None)
    if portraits is not None:
        info["portraits"] = portraits.title
    look = None if portraits is None else functools.partial(_look, portraits)
    return Engine(detector, limits, info, front_end.batch, front_end.parallel, adaptive, lift=lift,
                  look=look, between=model.glances)  # fmt: skip


def _careful(config: Config, still: bool) -> bool:
    """Return whether each picture is looked at in three sizes."""
    from manypose.models import weights

    model = config.model
    if model.careful != "photographs":
        return model.careful == "always"
    fixed = bool(model.input or model.target_fps)
    return still and not fixed and weights.find(model.name)[0].kind != "own"


def _portraits(config: Config, still: bool) -> int:
    """Return at how many people in each picture there is one more look."""
    how = config.model.portraits
    careful = how in _CAREFUL and _careful(config, still)
    if how == "always" or (how == "auto" and still) or careful:
        return max(EVERYBODY, config.people.max)
    return {"auto": LARGEST, "largest": LARGEST, "few": MOST}.get(how, 0)


def _look(
    portraits: Portraits, frame: Frame, people: Sequence[Person2D], others: Sequence[Person2D]
) -> list[Person2D | None]:
    size = frame.shape[::-1]
    return portraits.look(frame.picture, people, *size, others=others)


def load_detector(config: Config, batch: int, *, still: bool = False) -> Detector:
    """Return the Detector of `load_engine` alone.

    Raises:
        WeightsError: a weight file is missing or damaged.
        DeviceError: the device or runtime asked for cannot be had.
    """
    return load_engine(config, still=still, batch=batch).detector


def build_estimator(config: Config) -> Estimator:
    """Return an estimator for one video or camera, its networks loaded.

    Raises:
        WeightsError: a weight file is missing or damaged.
        DeviceError: the device or runtime asked for cannot be had.
    """
    return load_engine(config).estimator()
