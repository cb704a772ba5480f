from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SCRIPT = """
import gc, signal
from pathlib import Path
from manypose.models.sessions import Wish, open_session

signal.signal(signal.SIGTERM, lambda *_: print("handled"))
first, second = (open_session(Path(FILE), "openvino", Wish("cpu", 1)) for _ in range(2))
del first
gc.collect()
del second
gc.collect()
signal.raise_signal(signal.SIGTERM)
"""


def test_signals_are_handled_after_openvino_sessions_have_gone_in_any_order() -> None:
    pytest.importorskip("openvino")
    file = str(ROOT / "weights" / "portrait_int8.xml")
    script = SCRIPT.replace("FILE", repr(file))
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, timeout=60
    )
    assert (done.returncode, done.stdout.strip()) == (0, "handled"), done.stderr
