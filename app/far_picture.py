"""A picture in another process: its small form is in shared memory, parts of it are asked for."""

from __future__ import annotations

import itertools
import mmap
from collections.abc import Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection

import numpy as np
from numpy.typing import NDArray

from manypose.pose.records import Box, UInt8


@dataclass(frozen=True, slots=True, eq=False)
class Wanted:
    """Parts of the picture at hand that the other process asks for, each scaled to its size."""

    parts: tuple[Box, ...]
    sizes: tuple[tuple[int, int], ...]  # widths and heights


class FarPicture:
    """A `records.Picture` of which only the size is known, and what the network wants of it.

    The memory's first half holds the small form, the second what is asked for over the line.
    """

    def __init__(
        self, shape: tuple[int, int, int], small: tuple[int, int], line: Connection,
        memory: mmap.mmap,
    ) -> None:  # fmt: skip
        self.shape = shape
        self._small = whole(memory, *small)
        self._line, self._memory = line, memory

    def whole(self) -> UInt8:
        """Raise: nobody needs it here."""
        raise ValueError("the picture is in another process")

    def resized(self, out: UInt8, part: Box | None = None) -> None:
        """Write it, or a part of it, scaled to the size of `out`, which must be what came over."""
        if part is None:
            out[:] = self._small
        else:
            self.resized_parts([out], [part])

    def resized_parts(self, outs: Sequence[UInt8], parts: Sequence[Box]) -> None:
        """Write parts, each scaled to the size of its own `out`; as many a journey as have room."""
        room = len(self._memory) // 2
        begin = 0
        while begin < len(outs):
            end, taken = begin + 1, outs[begin].size
            while end < len(outs) and taken + outs[end].size <= room:
                end, taken = end + 1, taken + outs[end].size
            self._fetch(outs[begin:end], parts[begin:end])
            begin = end

    def pixels(self, y: NDArray[np.intp], x: NDArray[np.intp]) -> UInt8:
        """Raise: nobody needs them here."""
        raise ValueError("the picture is in another process")

    def _fetch(self, outs: Sequence[UInt8], some: Sequence[Box]) -> None:
        sizes = tuple((out.shape[1], out.shape[0]) for out in outs)
        self._line.send(Wanted(tuple(some), sizes))
        self._line.recv()
        for out, shown in zip(outs, parts(self._memory, sizes)):
            out[:] = shown


def whole(memory: mmap.mmap, width: int, height: int) -> UInt8:
    """Return the place of a small picture of this size (H, W, 3)."""
    return _at(memory, width, height, 0)


def parts(memory: mmap.mmap, sizes: Sequence[tuple[int, int]]) -> list[UInt8]:
    """Return the places of parts of these widths and heights, one behind the other."""
    starts = itertools.accumulate((3 * w * h for w, h in sizes), initial=len(memory) // 2)
    return [_at(memory, *size, start) for size, start in zip(sizes, starts)]


def _at(memory: mmap.mmap, width: int, height: int, start: int) -> UInt8:
    return np.frombuffer(memory, np.uint8, width * height * 3, start).reshape(height, width, 3)
