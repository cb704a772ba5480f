"""Files that appear whole or not at all: written as name.part, renamed when complete."""

from __future__ import annotations

import errno
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import IO, Any

from manypose.errors import OutputError


def part_of(path: Path) -> Path:
    """Return where a file is written before it is complete."""
    return path.with_name(path.name + ".part")


class WholeText:
    """A UTF-8 text file with plain line feeds: there when its context is left without an error.

    Entering gives the opened name.part; leaving it with an error removes that.

    Raises:
        OutputError: it cannot be written there.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._file: IO[str]

    def __enter__(self) -> IO[str]:
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            self._file = part_of(self._path).open("w", encoding="utf-8", newline="\n")
        except OSError as error:
            raise cannot_write(self._path, error) from error
        return self._file

    def __exit__(self, kind: object, error: object, traceback: object) -> None:
        try:
            self._file.close()
        except OSError as failure:
            raise cannot_write(self._path, failure) from failure
        if kind is None:
            finish(self._path)
        else:
            abandon(self._path)


def finish(path: Path) -> None:
    """Put name.part in its place."""
    try:
        os.replace(part_of(path), path)  # noqa: PTH105 - Path.replace is the same call
    except OSError as error:
        raise cannot_write(path, error) from error


def abandon(path: Path) -> None:
    """Remove name.part."""
    part_of(path).unlink(missing_ok=True)


def write_json(path: Path, value: Mapping[str, Any]) -> None:
    """Write a JSON file whole or not at all.

    Raises:
        OutputError: it cannot be written there.
    """
    with WholeText(path) as file:
        json.dump(value, file, indent=1, ensure_ascii=False, allow_nan=False)
        file.write("\n")


def cannot_write(path: Path, error: OSError) -> OutputError:
    """Return the error that says in one line why nothing could be written."""
    if error.errno == errno.ENOSPC:
        return OutputError(
            f"{path}: the disk is full. Make room or choose another folder with -o; --resume goes"
            " on from there."
        )
    return OutputError(f"{path}: cannot be written ({error.strerror or error}). Choose -o DIR.")
