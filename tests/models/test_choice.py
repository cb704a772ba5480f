from __future__ import annotations

import time
from pathlib import Path

import pytest

from manypose.models import choice, sessions
from manypose.models.onnx_file import Tensor
from manypose.models.sessions import Array, Session, Wish
from manypose.models.weights import Weights


def _network(seconds: dict[int, float], asked: list[int]) -> Session:
    """Return a network that takes so long for so many pictures."""

    def run(x: Array) -> dict[str, Array]:
        asked.append(len(x))
        time.sleep(seconds[len(x)])
        return {}

    image = Tensor("image", 2, (None, 8, 8, 3))
    return Session(run, (image,), (), "cpu", "int8", "of the test", True)


def test_networks_are_timed_with_as_many_pictures_as_come_together(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The first is faster for one picture, the second for four.
    asked: list[int] = []
    speeds = {"a.onnx": {1: 1e-3, 4: 9e-3}, "b.onnx": {1: 3e-3, 4: 3e-3}}
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setitem(
        sessions.RUNTIMES, "onnx", lambda path, _: _network(speeds[path.name], asked)
    )
    rows = [Weights("test", tmp_path / name, precision="int8") for name in speeds]
    digest = {row.path: row.path.name for row in rows}

    def best(together: int) -> str:
        wish = Wish("cpu", 1, "int8", 1, None, (), together)
        return choice.placed(rows, "onnx", wish, digest)[0].path.name

    assert (best(1), best(4)) == ("a.onnx", "b.onnx")
    assert set(asked) == {1, 4}
    assert asked.count(4) >= 2 * 5, "in several rounds"
