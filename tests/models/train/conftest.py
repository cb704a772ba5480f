from __future__ import annotations

import logging
from collections.abc import Iterator

import pytest


@pytest.fixture(autouse=True)
def _quiet_log() -> Iterator[None]:
    """Leave the log as it was: the command line sets it up."""
    log = logging.getLogger("manypose")
    before = list(log.handlers), log.level, log.propagate
    yield
    for handler in set(log.handlers) - set(before[0]):
        log.removeHandler(handler)
        handler.close()
    log.handlers[:], log.level, log.propagate = before
