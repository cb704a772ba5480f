"""The line of health that a service prints every ten seconds, the same for ``run`` and ``live``."""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from manypose.app.meter import Numbers

HEALTH_S = 10.0


def health_line(
    uptime_s: float, sources: Sequence[dict[str, Any]], input_size: Sequence[int] | None = None
) -> str:
    """Return the line: uptime, memory and the `source_health` of every source, as JSON.

    input_size: width and height that the network takes now, where they follow the rate.
    """
    health: dict[str, Any] = {
        "schema": "manypose-health/1",
        "uptime_s": round(uptime_s, 1),
        "rss_mb": memory_mb(),
        "sources": list(sources),
    }
    if input_size is not None:
        health["input_size"] = list(input_size)
    return json.dumps(health, ensure_ascii=False, allow_nan=False) + "\n"


def source_health(name: str, numbers: Numbers, state: str) -> dict[str, Any]:
    """Return how one source is: read = processed + dropped, but for the frame under way.

    lag_ms are the 50th, 90th and 99th percentile; state is "ok" or what is the matter.
    """
    return {
        "source": name,
        "in": round(numbers.in_hz, 1),
        "done": round(numbers.done_hz, 1),
        "lag_ms": None if numbers.lag_ms is None else [round(v, 1) for v in numbers.lag_ms],
        "people": numbers.people,
        "read": numbers.read,
        "processed": numbers.done,
        "dropped": dict(numbers.dropped),
        "silent_s": None if numbers.silent_s is None else round(numbers.silent_s, 1),
        "state": state,
    }


def memory_mb() -> float | None:
    """Return the memory that this process and those it has begun hold, in MB.

    None where the system does not say.
    """
    pages = _pages("self")
    if pages is None:
        return None
    for task in Path("/proc/self/task").glob("*/children"):
        with contextlib.suppress(OSError):  # a thread that has just ended
            pages += sum(_pages(child) or 0 for child in task.read_text("ascii").split())
    return round(pages * os.sysconf("SC_PAGE_SIZE") / 1e6, 1)


def _pages(process: str) -> int | None:
    with contextlib.suppress(OSError, ValueError, IndexError):
        return int(Path(f"/proc/{process}/statm").read_text("ascii").split()[1])
    return None
