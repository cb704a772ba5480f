"""Pictures as a source: a single file, or a folder in natural order of the names."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from manypose.app.config import Config
from manypose.app.sources import (
    FPS_WITHOUT_STAMPS,
    PICTURE_SUFFIXES,
    Counts,
    Lens,
    Source,
    SourceInfo,
    fixed_turns,
    turned,
)
from manypose.errors import SourceError
from manypose.pose.records import Frame


def open_pictures(address: str, config: Config) -> Source:
    """Return the pictures of a folder, or a single one, as a source.

    Raises:
        SourceError: there is no such file, or no picture in the folder.
    """
    path = Path(address)
    if path.is_dir():
        found = pictures_in(path)
        return Pictures(found, path.resolve().name, address, config, stills=_differ(found))
    if not path.exists():
        raise SourceError(f"{address}: no such file. Check the name and the folder.")
    return Pictures([path], path.stem, address, config, stills=True)


class Pictures:
    """Pictures of one folder in natural order of their names, or a single one.

    A picture's index is its place in the list, its time index / fps (source.fps, else 25). EXIF
    orientation is applied. A picture that cannot be read is counted and makes the source partial.
    """

    live = False

    def __init__(
        self, paths: Sequence[Path], name: str, address: str, config: Config, *,
        stills: bool = False,
    ) -> None:  # fmt: skip
        if not paths:
            raise SourceError(f"{address}: no pictures in this folder. Wanted: .jpg, .png, ...")
        self._paths = list(paths)
        self._lens = Lens(config)
        self._turns = fixed_turns(config.source.rotate) or 0
        self._fps = config.source.fps or FPS_WITHOUT_STAMPS
        self._closed = False
        self.counts = Counts()
        self.warnings: list[str] = []
        self.partial = False
        self.info = SourceInfo(
            "images",
            address,
            name,
            fps=self._fps,
            frames=len(paths),
            duration_s=len(paths) / self._fps,
            rotation_deg=-90 * self._turns % 360,
            files=tuple(p.name for p in paths),
            stills=stills,
        )

    def __iter__(self) -> Iterator[Frame]:
        """Yield the pictures; raises SourceError if none could be read."""
        done = 0
        for index, path in enumerate(self._paths):
            if self._closed:
                return
            self.counts.read += 1
            image = read_picture(path)
            if image is None:
                self.counts.undecodable += 1
                self.partial = True
                self.warnings.append(f"{path.name}: not a readable picture")
                continue
            image = turned(image, self._turns)
            h, w = image.shape[:2]
            camera = self._lens.camera(w, h, self._turns)
            yield Frame(image, index / self._fps, index, camera)
            done += 1
        if not done:
            raise SourceError(
                f"{self.info.address}: cannot be read as a picture; it is empty, damaged or of"
                " another kind."
            )

    def __enter__(self) -> Source:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """End the iteration."""
        self._closed = True


def _differ(paths: Sequence[Path]) -> bool:
    """Return whether the first, middle and last picture differ in size, as no sequence's do."""
    some = {paths[i] for i in (0, len(paths) // 2, -1)} if paths else set()
    sizes = {image.shape for image in map(read_picture, some) if image is not None}
    return len(sizes) > 1 or len(paths) == 1


def read_picture(path: Path) -> NDArray[np.uint8] | None:
    """Return a picture file as BGR (H, W, 3), upright by its EXIF tag; None if unreadable."""
    try:
        data = np.fromfile(path, np.uint8)  # cv2.imread cannot open every name on Windows
        whole = data.size > 0 and not _torn_png(data)
        image = cv2.imdecode(data, cv2.IMREAD_COLOR) if whole else None
    except (OSError, cv2.error):
        return None
    return None if image is None else image.astype(np.uint8, copy=False)


def _torn_png(data: NDArray[np.uint8]) -> bool:
    """Return whether a PNG has a chunk longer than the file: OpenCV would make room for it first.

    A length of four damaged bytes is up to 2 GB.
    """
    if data[:8].tobytes() != b"\x89PNG\r\n\x1a\n":
        return False
    at, end = 8, len(data)
    while at + 8 <= end:
        length = int.from_bytes(data[at : at + 4].tobytes(), "big")
        at += length + 12
    return at > end


def pictures_in(folder: Path) -> list[Path]:
    """Return the pictures of a folder in natural order of their names: 2.jpg before 10.jpg."""
    found = [
        p
        for p in folder.iterdir()
        if p.suffix.lower() in PICTURE_SUFFIXES and not p.name.startswith(".") and p.is_file()
    ]
    return sorted(found, key=lambda p: natural_key(p.name))


def natural_key(name: str) -> tuple[Any, ...]:
    """Return a sorting key under which numbers inside names count as numbers."""
    parts = re.split(r"(\d+)", name.casefold())
    # the name itself stands apart: "walk" and "walk2" are compared as far as "walk" goes
    return tuple((int(p), "") if p.isdigit() else (-1, p) for p in parts), name
