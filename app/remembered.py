"""Which run was the newest: what ``manypose play last`` opens."""

from __future__ import annotations

import contextlib
import json
from pathlib import Path

from manypose.errors import SourceError


def _file() -> Path:
    import platformdirs

    return Path(platformdirs.user_data_dir("manypose", appauthor=False)) / "last_run.json"


def remember(folder: Path) -> None:
    """Remember a run's folder as the newest; a home that cannot be written to is no error."""
    file = _file()
    part = file.with_name(file.name + ".part")
    with contextlib.suppress(OSError):
        file.parent.mkdir(parents=True, exist_ok=True)
        part.write_text(json.dumps({"folder": str(folder.resolve())}), "utf-8")
        part.replace(file)


def last_run() -> Path:
    """Return the folder of the newest run.

    Raises:
        SourceError: none is remembered, or it has gone.
    """
    try:
        folder = Path(json.loads(_file().read_text("utf-8"))["folder"])
    except (OSError, ValueError, KeyError, TypeError):
        raise SourceError(
            "No run is remembered yet. Record one in manypose live (key R), or give a folder that"
            " manypose run wrote."
        ) from None
    if not folder.is_dir():
        raise SourceError(f"{folder}: the last run is no longer there. Give another run's folder.")
    return folder


def sessions_folder() -> Path:
    """Return where live sessions and snapshots go unless told otherwise."""
    import platformdirs

    return Path(platformdirs.user_videos_dir()) / "manypose"
