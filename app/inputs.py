"""What the user named, spelled out: trees, globs and list files to single inputs and folders."""

from __future__ import annotations

import glob
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from manypose.app.pictures import natural_key
from manypose.app.sources import PICTURE_SUFFIXES, VIDEO_SUFFIXES, masked
from manypose.errors import SourceError, UsageError


@dataclass(frozen=True, slots=True)
class Input:
    """One source and the folder its results go to."""

    address: str
    folder: Path


def plan(words: Sequence[str], out: Path) -> list[Input]:
    """Return the inputs in order, each with a folder of its own under `out`.

    A video or picture gives out/<stem>; a folder of pictures is one input; any other folder is a
    tree whose videos and picture folders are inputs, at out/<path within the tree>. A name with
    * ? [ is a glob, a .txt file a list with one input a line. Where two inputs would meet in one
    folder, the later one gets -2, -3, ... after its name.

    Raises:
        UsageError: nothing was named.
        SourceError: a tree, glob or list holds no input.
    """
    if not words:
        raise UsageError("name at least one input: a video, picture, folder or stream")
    taken: set[str] = set()
    planned = []
    seen: set[tuple[str, Path]] = set()
    for address, place in _expanded(words):
        if (address, place) in seen:
            continue
        seen.add((address, place))
        folder, count = out / place, 1
        while str(folder).casefold() in taken:
            count += 1
            folder = (out / place).with_name(f"{place.name}-{count}")
        taken.add(str(folder).casefold())
        planned.append(Input(address, folder))
    return planned


def _expanded(words: Sequence[str], depth: int = 0) -> Iterator[tuple[str, Path]]:
    """Yield (address, place under the output folder)."""
    for word in words:
        path = Path(word)
        if "://" in word:
            name = masked(word).partition("://")[2]
            yield word, Path(_plain(name) or "stream")
        elif path.is_dir():
            yield from _folder(path)
        elif path.exists():
            if path.suffix.lower() == ".txt":
                yield from _listed(path, depth)
            else:
                yield word, Path(_stem(path))
        elif any(c in word for c in "*?["):
            hits = sorted(glob.glob(word, recursive=True), key=natural_key)  # noqa: PTH207
            if not hits:
                raise SourceError(f"{word}: nothing fits this pattern.")
            yield from _expanded(hits, depth)
        else:  # a camera, or a file that is missing: opening it says which
            yield word, Path(_stem(path) if path.suffix else _plain(word) or "input")


def _listed(path: Path, depth: int) -> Iterator[tuple[str, Path]]:
    if depth > 4:
        raise UsageError(f"{path}: a list that names lists that name lists; write it out")
    try:
        lines = path.read_text("utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise SourceError(f"{path}: cannot be read as a list of inputs ({error}).") from error
    words = []
    for line in map(str.strip, lines):
        if line and not line.startswith("#"):
            beside = path.parent / line
            words.append(str(beside) if "://" not in line and not Path(line).exists() else line)
    if not words:
        raise SourceError(f"{path}: an empty list; write one input a line.")
    yield from _expanded(words, depth + 1)


def _folder(top: Path) -> Iterator[tuple[str, Path]]:
    """Yield a folder of pictures, or the videos and picture folders of a tree."""
    found = False
    for here, folders, files in os.walk(top):
        folders[:] = sorted((f for f in folders if not f.startswith(".")), key=natural_key)
        shown = sorted((f for f in files if not f.startswith(".")), key=natural_key)
        place = Path(here).relative_to(top)
        if any(Path(f).suffix.lower() in PICTURE_SUFFIXES for f in shown):
            found = True
            own = Path(_plain(top.resolve().name) or "pictures")
            yield here, own if place == Path() else place
        for name in shown:
            if Path(name).suffix.lower() in VIDEO_SUFFIXES:
                found = True
                yield str(Path(here) / name), place / _stem(Path(name))
    if not found:
        raise SourceError(f"{top}: no videos and no pictures in this folder.")


def _stem(path: Path) -> str:
    """Return a file's stem as the name of a folder; a name of dots only would lead elsewhere."""
    return path.stem if path.stem.strip(". ") else _plain(path.name) or "input"


def _plain(text: str) -> str:
    return "".join(c if c.isalnum() or c in "-_." else "_" for c in text).strip("._")
