"""Mutated inputs: each reader refuses in its own words or reads on; nothing crashes or hangs."""

from __future__ import annotations

import contextlib
import time
import zipfile
from pathlib import Path

import av.logging
import cv2
import numpy as np
import pytest
from drawn_engine import drawn_engine
from made_clips import picture, write_clip

from manypose.app.config import Config, load_config
from manypose.app.formats import reading
from manypose.app.formats.reading import load_run
from manypose.app.process import Job, process
from manypose.app.sources import open_source
from manypose.errors import ManyposeError, SourceError

MUTANTS = 40


def mutated(data: bytes, rng: np.random.Generator) -> bytes:
    """Return data cut short, with bytes flipped, or with a stretch of noise."""
    kind = rng.integers(3)
    if kind == 0:
        return data[: rng.integers(len(data))]
    changed = bytearray(data)
    for _ in range(rng.integers(1, 30)):
        changed[rng.integers(len(changed))] = rng.integers(256)
    if kind == 2:
        at = int(rng.integers(len(changed)))
        changed[at : at + 50] = rng.bytes(50)
    return bytes(changed)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    folder = tmp_path_factory.mktemp("whole")
    write_clip(folder / "a.mp4", 8, size=(480, 288))
    write_clip(folder / "a.mkv", 8, size=(96, 64))
    cv2.imwrite(str(folder / "a.png"), picture(0))
    cv2.imwrite(str(folder / "a.jpg"), picture(0))
    config = Config()
    with open_source(str(folder / "a.mp4"), config) as source:
        process(Job("a.mp4", folder / "run", config), source, drawn_engine(config))
    files = [*folder.glob("a.*"), folder / "run/pose.npz", folder / "run/pose.jsonl"]
    return {f.name: f.read_bytes() for f in files}


@pytest.mark.parametrize("name", ["a.mp4", "a.mkv", "a.png", "a.jpg", "pose.npz", "pose.jsonl"])
def test_a_mutated_file_is_refused_or_read(
    tmp_path: Path, whole: dict[str, bytes], name: str
) -> None:
    rng = np.random.default_rng(7)
    for _ in range(MUTANTS):
        path = tmp_path / name
        path.write_bytes(mutated(whole[name], rng))
        start = time.monotonic()
        try:
            if name.startswith("pose"):
                load_run(path)
            else:
                with open_source(str(path), Config()) as source:
                    for frame in source:
                        assert frame.image.ndim == 3
        except ManyposeError as error:
            assert "\n" not in str(error)  # noqa: PT017 - either outcome is right
        assert time.monotonic() - start < 10


def test_an_array_whose_description_ends_in_its_midst_is_refused(tmp_path: Path) -> None:
    head = (
        b"\x93NUMPY\x01\x00" + (30).to_bytes(2, "little") + b"{'descr': ('<f4', (3, \x00".ljust(30)
    )
    with zipfile.ZipFile(tmp_path / "pose.npz", "w") as archive:
        for name in reading._SHAPES:
            archive.writestr(f"{name}.npy", head)
    with pytest.raises(SourceError, match="not a whole result file"):
        load_run(tmp_path / "pose.npz")


def test_threads_of_decoders_never_call_python(tmp_path: Path) -> None:
    """PyAV passes messages on only at a level; closing a damaged film then waited for ever."""
    av.logging.set_level(av.logging.ERROR)
    with contextlib.closing(open_source(str(write_clip(tmp_path / "a.mp4", 3)), load_config())):
        assert av.logging.get_level() is None


def test_mutated_settings_are_refused_or_read(tmp_path: Path) -> None:
    import manypose.app.config as config_module

    text = Path(config_module.__file__).with_name("default.toml").read_bytes()
    rng = np.random.default_rng(3)
    for _ in range(3 * MUTANTS):
        path = tmp_path / "manypose.toml"
        path.write_bytes(mutated(text, rng))
        try:
            load_config(environ={}, user=tmp_path / "none", project=path)
        except ManyposeError as error:
            assert str(error).startswith(str(path))  # noqa: PT017
