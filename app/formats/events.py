"""events.jsonl: who appeared and left when, and what went wrong, one JSON object for each line."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import IO, Any

from manypose.app.formats.part import WholeText
from manypose.pose.records import FrameResult


class EventsWriter:
    """Writes events.jsonl: events person_appears, person_leaves, gap and those told by `note`."""

    def __init__(self, folder: Path, meta: Mapping[str, Any]) -> None:
        self.path = folder / "events.jsonl"
        self._present: frozenset[int] = frozenset()
        self._last: tuple[int, float] | None = None
        self._whole = WholeText(self.path)
        self._file: IO[str]

    def __enter__(self) -> EventsWriter:
        self._file = self._whole.__enter__()
        return self

    def write(self, result: FrameResult) -> None:
        """Take the result of the next frame."""
        index, time_s = result.frame.index, result.frame.time_s
        if self._last is not None and index > self._last[0] + 1:
            self.note("gap", frame=index, t=time_s, missing=index - self._last[0] - 1)
        ids = frozenset(p.track_id for p in result.people)
        for track_id in sorted(ids - self._present):
            self.note("person_appears", frame=index, t=time_s, id=track_id)
        if self._last is not None:
            for track_id in sorted(self._present - ids):
                self.note("person_leaves", frame=self._last[0], t=self._last[1], id=track_id)
        self._present = ids
        self._last = (index, time_s)

    def note(self, event: str, **facts: Any) -> None:
        """Write one event with its facts; the time is rounded to microseconds."""
        if "t" in facts:
            facts["t"] = round(facts["t"], 6)
        line = json.dumps({"event": event, **facts}, ensure_ascii=False, allow_nan=False)
        self._file.write(line + "\n")

    def __exit__(self, kind: object, error: object, traceback: object) -> None:
        self._whole.__exit__(kind, error, traceback)
