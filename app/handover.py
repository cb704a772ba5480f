"""Frames and results handed from one thread to the next: two rooms, both bounded.

`Latest` is a one-place slot for live sources: a newer item takes the place of one that nobody
fetched, and the loss is counted by reason. `Line` is a bounded queue that loses nothing, for
recorded sources and writers. Both carry the end and an error of the producer to the consumer, and
closing from either side frees the other within one wait, so that no thread can hang for ever.
"""

from __future__ import annotations

import threading
import time
from collections import Counter, deque
from collections.abc import Iterator
from typing import Generic, TypeVar

T = TypeVar("T")

WAIT_S = 0.5  # a waiting thread looks up this often, whatever happens to its notifier


class Closed(Exception):  # noqa: N818 - a signal between threads, not an error
    """The other side has closed; nothing more will be taken or given."""


class _Room:
    """The end, the closing and the error that both rooms pass on."""

    def __init__(self) -> None:
        self._turn = threading.Condition()
        self._ended = False
        self._closed = False
        self._error: BaseException | None = None

    def end(self, error: BaseException | None = None) -> None:
        """Say that nothing follows; an error is raised in the consumer after the last item."""
        with self._turn:
            self._ended = True
            self._error = self._error or error
            self._turn.notify_all()

    @property
    def closed(self) -> bool:
        """Whether either side has given up."""
        return self._closed


class Line(_Room, Generic[T]):
    """A bounded queue with an end: `put` waits while it is full, nothing is lost."""

    def __init__(self, places: int) -> None:
        super().__init__()
        if places < 1:
            raise ValueError(f"Line: {places} places, wanted at least 1")
        self._places = places
        self._items: deque[T] = deque()

    def put(self, item: T) -> None:
        """Hand an item over; waits while the line is full.

        Raises:
            Closed: the consumer has closed.
        """
        with self._turn:
            while not self._closed and len(self._items) >= self._places:
                self._turn.wait(WAIT_S)
            if self._closed:
                raise Closed
            self._items.append(item)
            self._turn.notify_all()

    def close(self) -> None:
        """Give up: drops what waits, frees both sides."""
        with self._turn:
            self._closed = True
            self._items.clear()
            self._turn.notify_all()

    def __iter__(self) -> Iterator[T]:
        """Yield the items in order until the end; raises the producer's error."""
        while True:
            with self._turn:
                while not (self._items or self._ended or self._closed):
                    self._turn.wait(WAIT_S)
                if self._closed:
                    return
                if not self._items:
                    if self._error is not None:
                        raise self._error
                    return
                item = self._items.popleft()
                self._turn.notify_all()
            yield item


class Latest(_Room, Generic[T]):
    """A one-place slot where the newest item wins; `dropped` counts the losses by reason.

    `offered`, `taken` and the sum of `dropped` add up once the producer has ended and the consumer
    has emptied the slot: offered = taken + dropped (+ 1 while an item waits).
    """

    def __init__(self) -> None:
        super().__init__()
        self.dropped: Counter[str] = Counter()
        self.offered = 0
        self.taken = 0
        self._item: T | None = None

    def put(self, item: T) -> None:
        """Hand an item over without waiting; an item nobody fetched is dropped as "stale".

        Raises:
            Closed: the consumer has closed.
        """
        with self._turn:
            if self._closed:
                raise Closed
            if self._item is not None:
                self.dropped["stale"] += 1
            self.offered += 1
            self._item = item
            self._turn.notify_all()

    def count_drop(self, reason: str, count: int = 1) -> None:
        """Count items that were lost before they reached the slot (a gap in the camera's row)."""
        with self._turn:
            self.offered += count
            self.dropped[reason] += count

    def get(self, timeout_s: float) -> T | None:
        """Return the newest item, or None if none came in time.

        Raises:
            Closed: the producer has ended, and the slot is empty.
            BaseException: the producer's error, after its last item.
        """
        deadline = time.monotonic() + timeout_s
        with self._turn:
            while self._item is None and not (self._ended or self._closed):
                left = deadline - time.monotonic()
                if left <= 0:
                    return None
                self._turn.wait(min(left, WAIT_S))
            if self._item is not None and not self._closed:
                item, self._item = self._item, None
                self.taken += 1
                return item
            if self._error is not None and not self._closed:
                raise self._error
            raise Closed

    def close(self) -> None:
        """Give up from either side; a waiting consumer is freed."""
        with self._turn:
            if self._item is not None:
                self.dropped["closing"] += 1
                self._item = None
            self._closed = True
            self._turn.notify_all()

    def __iter__(self) -> Iterator[T]:
        """Yield the newest items until the end; raises the producer's error."""
        while True:
            try:
                item = self.get(WAIT_S)
            except Closed:
                return
            if item is not None:
                yield item
