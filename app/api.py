"""manypose from Python: run a source, load a run, or process pictures of your own.

    for result in manypose.run("clip.mp4"):
        print(result.t, [person.kp3d[14] for person in result.persons])

    run = manypose.load("out/clip/pose.npz")

    pipeline = manypose.Pipeline()
    result = pipeline.process(picture_bgr, t=0.04)

No windows, no argument parsing, no signal handlers; what goes wrong is a `ManyposeError`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from manypose.app.config import Config, load_config, set_value
from manypose.app.formats.reading import Run, load_run
from manypose.app.glances import found_in
from manypose.app.pipeline import Engine, for_live, load_engine
from manypose.app.sources import Lens, open_source
from manypose.pose.hindsight import Hindsight
from manypose.pose.records import Frame, FrameResult

__all__ = ["Config", "FrameResult", "Pipeline", "Run", "load", "run", "settings"]


def settings(**values: Any) -> Config:
    """Return the effective settings; values as section_key, for example filter_preset="fast".

    The user's file, manypose.toml in the current folder and the environment are read as by the
    command line.

    Raises:
        ConfigError: a setting is unknown or wrong.
    """
    config = load_config()
    for name, value in values.items():
        config = set_value(config, name.replace("_", ".", 1), value, "settings()")
    return config


def run(
    source: str | Path, config: Config | None = None, *, still: bool = False
) -> Iterator[FrameResult]:
    """Yield the result of every frame of a source: a video, folder, stream or camera.

    A result has `t` (seconds from the first frame), `frame` (picture, index, camera) and `persons`;
    a person has `id`, `score`, `kp3d` (21, 3) m in the camera frame, `kp2d` (20, 3) px and
    confidence, `state` (21,). Nothing is kept: the caller decides what to remember. So recordings
    come with the live filter, where the command smooths them once they are whole. The source is
    opened with the first result and closed when the iteration ends.

    Args:
        source: path, address or camera number, as on the command line.
        config: settings; None takes those in force (see `settings`).
        still: every picture on its own, without tracking and filters; photographs always are (a
            single picture, a folder of pictures of several sizes).

    Raises:
        SourceError: nothing can be read there.
        WeightsError, DeviceError: no network can be run.
    """
    config = config or load_config()
    with open_source(str(source), config) as opened:
        still = still or opened.info.stills
        engine = load_engine(for_live(config) if opened.live else config, still=still)
        follower = engine.follower(still=opened.info.stills)
        glances = engine.glances(follower) if opened.live else None
        follow = Hindsight(follower, wait=not opened.live)
        start_s: float | None = None
        for frame in opened:
            if start_s is None:
                start_s = frame.time_s if opened.live else 0.0
            frame = dataclasses.replace(frame, time_s=frame.time_s - start_s)
            found, _ = found_in([(glances, frame)], engine.detector)
            yield from follow(found[0])
        yield from follow.rest()


def load(path: str | Path) -> Run:
    """Return a stored run, by its folder or its pose.npz.

    Iterating it yields frames with `t`, `frame` and `persons`; its arrays are those of the file.

    Raises:
        SourceError: there is no run or it is damaged.
    """
    return load_run(path)


class Pipeline:
    """Processes pictures of one camera in the order of their times; for one caller at a time."""

    def __init__(
        self, config: Config | None = None, *, still: bool = False, engine: Engine | None = None
    ) -> None:
        """Load the networks.

        Args:
            config: settings; None takes those in force.
            still: every picture on its own.
            engine: networks loaded before, to be shared by several pipelines.

        Raises:
            WeightsError, DeviceError: no network can be run.
        """
        self._config = config or load_config()
        self._engine = engine or load_engine(self._config, still=still)
        self._estimator = self._engine.estimator()
        self._lens = Lens(self._config)
        self._index = 0

    @property
    def info(self) -> dict[str, Any]:
        """What runs where: model, sha256, runtime, device, precision, threads."""
        return dict(self._engine.info)

    def process(self, bgr: NDArray[np.uint8], t: float) -> FrameResult:
        """Return the people of the next picture.

        Args:
            bgr: picture (H, W, 3) uint8, upright.
            t: its time in seconds; must grow from call to call.

        Raises:
            ValueError: the picture has another shape or kind.
        """
        image = np.asarray(bgr)
        if image.dtype != np.uint8:
            raise ValueError(f"process: picture of {image.dtype}, wanted uint8")
        if image.ndim != 3:
            raise ValueError(f"process: picture of shape {image.shape}, wanted (H, W, 3)")
        camera = self._lens.camera(image.shape[1], image.shape[0])
        frame = Frame(image, float(t), self._index, camera)
        self._index += 1
        return self._estimator(frame)

    def reset(self) -> None:
        """Forget everybody: the next picture is the first of another video."""
        self._estimator = self._engine.estimator()
        self._index = 0
