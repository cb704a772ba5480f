from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
sys.path.insert(0, str(HERE))  # made_clips, drawn_engine


@pytest.fixture
def quiet_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Settings, logs and environment of whoever runs the tests stay out of them."""
    home = tmp_path / "home"
    home.mkdir()
    for name in ("XDG_CONFIG_HOME", "XDG_STATE_HOME", "XDG_CACHE_HOME", "XDG_DATA_HOME", "HOME"):
        monkeypatch.setenv(name, str(home))
    work = tmp_path / "work"
    work.mkdir()
    monkeypatch.chdir(work)
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    return work


Command = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture
def manypose(quiet_home: Path) -> Command:
    """Run the real command line in a process of its own, with the drawn engine."""

    def call(*words: str | Path, timeout: float = 60) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, str(HERE / "drawn_engine.py"), *map(str, words)],
            capture_output=True, text=True, timeout=timeout, check=False,
        )  # fmt: skip

    return call
