"""The verb ``smooth``: smooth a finished run or recorded session afterwards.

What ``manypose run`` does by itself at the end of a recording; for sessions of ``manypose live``
and for runs that were left as they came.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from manypose.app.formats.part import cannot_write
from manypose.app.formats.reading import run_on_disk
from manypose.app.remembered import last_run
from manypose.app.rewrite import WITH_JOINTS, refresh, write_run
from manypose.app.smoothing import METHODS, smooth_run
from manypose.errors import UsageError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the verb's options."""
    parser.add_argument("run", metavar="RUN", help="folder of a run or session; last: the newest")
    parser.add_argument(
        "--smooth", choices=METHODS[1:], default="adaptive", metavar="NAME",
        help="adaptive, butterworth, kalman (default adaptive)",
    )  # fmt: skip
    parser.add_argument("-o", "--output", metavar="DIR", help="new folder (default: in place)")


def run(args: argparse.Namespace) -> int:
    """Smooth a run; prints its folder.

    Raises:
        UsageError: it is smoothed already, still being recorded, or no recording.
        SourceError: there is no run.
        OutputError: the folder cannot be written.
    """
    path = Path(args.run)
    path = last_run() if args.run == "last" and not path.exists() else path
    if (path / "pose.jsonl.part").exists():
        raise UsageError(
            f"{path}: is being recorded, or was broken off; smooth it when it is whole"
        )
    folder = path if args.output is None else Path(args.output)
    try:
        with run_on_disk(path) as stored:
            if "smooth" in stored.meta:
                raise UsageError(
                    f"{path}: is smoothed already ({stored.meta['smooth']}); manypose run --smooth"
                    " NAME makes it anew in another way"
                )
            if stored.meta.get("still"):
                raise UsageError(f"{path}: photographs, each of another moment: nothing to smooth")
            write_run(smooth_run(stored, args.smooth), folder, WITH_JOINTS)
    except OSError as error:
        raise cannot_write(path, error) from error
    refresh(folder)
    sys.stdout.write(f"{folder}\n")
    return 0
