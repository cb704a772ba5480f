"""The native files of a run, one module each; `WRITERS` is the list the command line reads.

A writer is a context manager made with (folder, meta): `write` takes the results in order of time,
leaving it without an error puts the finished file in place, leaving it with one removes what was
begun. Units and axes are converted nowhere here: native files keep px of the upright source picture
and metres in the camera frame (x right, y down, z forward), NaN or null = missing.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol

from manypose.pose.records import FrameResult

SCHEMA = "manypose/1"


class Writer(Protocol):
    """Takes results one by one; the file appears when the context is left."""

    path: Path

    def __enter__(self) -> Writer: ...

    def write(self, result: FrameResult) -> None:
        """Take the result of the next frame."""

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None: ...


WriterMaker = Callable[[Path, Mapping[str, Any]], Writer]


def _npz(folder: Path, meta: Mapping[str, Any]) -> Writer:
    from manypose.app.formats.npz import NpzWriter

    return NpzWriter(folder, meta)


def _csv(folder: Path, meta: Mapping[str, Any]) -> Writer:
    from manypose.app.formats.csv import CsvWriter

    return CsvWriter(folder, meta)


def _jsonl(folder: Path, meta: Mapping[str, Any]) -> Writer:
    from manypose.app.formats.jsonl import JsonlWriter

    return JsonlWriter(folder, meta)


def _coco(folder: Path, meta: Mapping[str, Any]) -> Writer:
    from manypose.app.formats.coco import CocoWriter

    return CocoWriter(folder, meta)


# Name on the command line -> maker of the writer.
WRITERS: dict[str, WriterMaker] = {"npz": _npz, "csv": _csv, "jsonl": _jsonl, "coco": _coco}
