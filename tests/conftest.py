from __future__ import annotations

import signal
from pathlib import Path

import pytest
from hypothesis import settings

# A machine that is busy with other things is no failure of a property.
settings.register_profile("patient", deadline=None)
settings.load_profile("patient")

# Started in the background of a shell, Python ignores Ctrl-C, and so would every program the tests
# start and then interrupt.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of data that is not part of the project; tests that need it skip without it."""
    folder = Path(__file__).resolve().parents[2] / "shared"
    if not folder.is_dir():
        pytest.skip("no shared data here")
    return folder
