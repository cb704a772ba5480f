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


def open_part(path: Path) -> IO[str]:
    """Return name.part opened for UTF-8 text with plain line feeds.

    Raises:
        OutputError: it cannot be written there.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        return part_of(path).open("w", encoding="utf-8", newline="\n")
    except OSError as error:
        raise cannot_write(path, error) from error


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
    with open_part(path) as file:
        json.dump(value, file, indent=1, ensure_ascii=False, allow_nan=False)
        file.write("\n")
    finish(path)


def cannot_write(path: Path, error: OSError) -> OutputError:
    """Return the error that says in one line why nothing could be written."""
    if error.errno == errno.ENOSPC:
        return OutputError(
            f"{path}: the disk is full. Make room or choose another folder with -o; --resume goes"
            " on from there."
        )
    return OutputError(f"{path}: cannot be written ({error.strerror or error}). Choose -o DIR.")
