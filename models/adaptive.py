"""Stage I at several input sizes, and the pace that says which one keeps the rate asked for.

All sizes are compiled at the start, so that changing over costs nothing. A smaller picture costs
less time in proportion to its area, and sees people farther away less well.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Sequence

from manypose.errors import UsageError
from manypose.models.backends import SIZE_STEP, StageOneNetwork, any_size, load_network
from manypose.models.sessions import Info
from manypose.pose.records import Frame, NetworkOutput

log = logging.getLogger(__name__)

_SHARES = (1.0, 0.83, 0.67)  # of the sides
_WINDOW = 15  # frames looked at before the size may change
_PATIENCE, _PATIENCE_MAX = 60, 1920  # frames that must have been fast enough for a larger size
_FULL, _EASY = 0.95, 0.75  # shares of the time of a frame: above, smaller; below, larger


def sizes(width: int, height: int) -> list[tuple[int, int]]:
    """Return the input sizes (width, height) of a network made for the first of them."""
    out: list[tuple[int, int]] = []
    for share in _SHARES:
        w, h = (
            max(side - SIZE_STEP * round(side * (1 - share) / SIZE_STEP), 2 * SIZE_STEP)
            for side in (width, height)
        )
        if (w, h) not in out:
            out.append((w, h))
    return out


class Pace:
    """Chooses the size, a level of `costs`, by what the frames have cost.

    It goes to a smaller size when the mean of the last frames is over the time of a frame, and back
    when the larger one would have kept it with room to spare for long. A larger size that had to
    be left soon is tried ever more seldom.

    Args:
        target_hz: frames per second that should be kept.
        costs: how long the network takes at each level, largest first, in any unit.
    """

    def __init__(self, target_hz: float, costs: Sequence[float]) -> None:
        self.target_hz = target_hz
        self.level = 0
        self._costs = tuple(costs)
        self._recent: deque[tuple[float, float]] = deque(maxlen=_WINDOW)
        self._easy = 0
        self._patience = _PATIENCE
        self._since = 0  # frames at this level

    def spent(self, frame_s: float, network_s: float) -> bool:
        """Take note of one frame, in all and in the network; returns whether the level changed."""
        self._recent.append((frame_s, network_s))
        self._since += 1
        if len(self._recent) < _WINDOW:
            return False
        whole = sum(f for f, _ in self._recent) / _WINDOW
        network = sum(n for _, n in self._recent) / _WINDOW
        budget = 1 / self.target_hz
        if whole > _FULL * budget:
            self._easy = 0
            if self.level == len(self._costs) - 1:
                return False
            if self._since < 4 * _PATIENCE:
                self._patience = min(2 * self._patience, _PATIENCE_MAX)
            return self._change(self.level + 1)
        if self.level == 0:
            return False
        more = self._costs[self.level - 1] / self._costs[self.level]
        self._easy = self._easy + 1 if whole + (more - 1) * network < _EASY * budget else 0
        if self._easy < self._patience:
            return False
        return self._change(self.level - 1)

    def _change(self, level: int) -> bool:
        self.level, self._easy, self._since = level, 0, 0
        self._recent.clear()
        return True


class AdaptiveNetwork:
    """Networks of falling input size behind one; `pace` says which of them is asked."""

    def __init__(self, networks: Sequence[StageOneNetwork], target_hz: float) -> None:
        self._networks = tuple(networks)
        areas = [w * h for w, h in (n.info.input_size for n in networks)]
        self.pace = Pace(target_hz, [float(a) for a in areas])

    @property
    def info(self) -> Info:
        """What runs, at its largest size."""
        return self._networks[0].info

    @property
    def parallel(self) -> bool:
        """Whether several threads may call it at once."""
        return self._networks[0].parallel

    @property
    def input_size(self) -> tuple[int, int]:
        """Width and height in use now."""
        return self._networks[self.pace.level].info.input_size

    def __call__(self, frames: Sequence[Frame]) -> list[NetworkOutput]:
        """Return the maps of each frame, of the size in use."""
        return self.timed(frames)[0]

    def timed(self, frames: Sequence[Frame]) -> tuple[list[NetworkOutput], dict[str, float]]:
        """Return the maps of each frame, and milliseconds a frame of resize and network."""
        return self._networks[self.pace.level].timed(frames)

    def spent(self, frame_s: float, network_s: float) -> None:
        """Take note of what a frame has cost; the next one may have another size."""
        if self.pace.spent(frame_s, network_s):
            w, h = self.input_size
            log.info("input %dx%d to keep %g frames/s", w, h, self.pace.target_hz)


def load(
    model: str, backend: str, device: str, threads: int | None, precision: str, batch: int,
    target_hz: float, encodings: bool = True, size: tuple[int, int] | None = None,
) -> AdaptiveNetwork:  # fmt: skip
    """Return a network of all `sizes`, each compiled now; arguments as `backends.load_network`.

    Raises:
        UsageError: the files of the network have fixed input sizes.
    """
    first = load_network(model, backend, device, threads, precision, batch, size, encodings)
    i = first.info
    if not any_size(model):
        raise UsageError(
            f"--target-fps changes the input size, and the files of {model} have one each: export "
            "it anew"
        )
    rest = [
        load_network(model, backend, i.device, i.threads, i.precision, batch, smaller, encodings)
        for smaller in sizes(*i.input_size)[1:]
    ]
    return AdaptiveNetwork([first, *rest], target_hz)
