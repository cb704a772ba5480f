"""A Ctrl-C or SIGTERM that waits until a step is done."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager


class Stop:
    """Remembers a Ctrl-C or SIGTERM until a step is done and saved."""

    def __init__(self) -> None:
        self.number: int | None = None

    @contextmanager
    def armed(self) -> Iterator[None]:
        """Take the signals over; the one that came is raised again at the end."""

        def remember(number: int, _frame: object) -> None:
            self.number = number

        try:
            before = {s: signal.signal(s, remember) for s in (signal.SIGINT, signal.SIGTERM)}
        except ValueError:  # not in the main thread: whoever runs us handles signals
            yield
            return
        try:
            yield
        finally:
            for s, handler in before.items():
                signal.signal(s, handler)
        if self.number is not None:
            signal.raise_signal(self.number)
