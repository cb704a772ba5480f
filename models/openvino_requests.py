"""Requests of OpenVINO: pictures to named arrays, several of them in work at once."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]


class Requests:
    """A network compiled for each number of pictures that one request takes.

    A number left open costs time, and so does a request for one picture where there are more.
    compiled: returns the network for so many pictures; least, most: how many a request takes, and
    what lies between in powers of two; a network is compiled when first wanted. streams: requests
    of one call in work at once. outputs: their names. May be called by several threads.
    """

    def __init__(self, compiled: Callable[[int], Any], least: int, most: int, streams: int) -> None:
        self._compiled = compiled
        self._streams = streams
        sizes = [least]
        while 2 * sizes[-1] <= most:
            sizes.append(2 * sizes[-1])
        self._sizes = sizes[::-1]
        self._networks = {least: compiled(least)}
        self._spare: dict[int, deque[Any]] = {size: deque() for size in sizes}
        self.outputs = tuple(name(o, i) for i, o in enumerate(self._networks[least].outputs))

    def __call__(self, x: Array) -> dict[str, Array]:
        """Return the outputs by name for pictures (B, height, width, 3)."""
        x = np.ascontiguousarray(x)  # alive until its answers are there: it is not copied
        waiting: deque[tuple[Any, int]] = deque()
        done = []
        begin = 0
        while begin < len(x):
            left = len(x) - begin
            end = begin + next((s for s in self._sizes if s <= left), self._sizes[-1])
            if len(waiting) == self._streams:
                done.append(self._answer(*waiting.popleft()))
            waiting.append(self._started(x[begin:end]))
            begin = end
        done += [self._answer(*one) for one in waiting]
        if len(done) == 1:
            return done[0]
        return {n: np.concatenate([d[n] for d in done]) for n in self.outputs}

    def _started(self, part: Array) -> tuple[Any, int]:
        count = len(part)
        try:
            request = self._spare[count].pop()  # a deque may be shared by threads
        except IndexError:
            if count not in self._networks:
                self._networks[count] = self._compiled(count)
            request = self._networks[count].create_infer_request()
        request.start_async({0: part}, share_inputs=True)
        return request, count

    def _answer(self, request: Any, count: int) -> dict[str, Array]:
        request.wait()
        told = {n: np.array(request.get_output_tensor(i).data) for i, n in enumerate(self.outputs)}
        self._spare[count].append(request)
        return told


def name(port: Any, at: int) -> str:
    """Return the first name of an input or output, or one made of its place."""
    return str(next(iter(sorted(port.get_names())), f"output{at}"))
