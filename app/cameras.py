"""The verb ``cameras``: list the cameras of this machine with their names."""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import asdict

from manypose.app.webcam import list_cameras


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the verb's options."""
    parser.add_argument("--json", action="store_true", help="a JSON list on stdout")


def run(args: argparse.Namespace) -> int:
    """Print number, name and device of each camera; returns 0, also where there is none."""
    cameras = list_cameras()
    if args.json:
        sys.stdout.write(json.dumps([asdict(c) for c in cameras or ()], ensure_ascii=False) + "\n")
        return 0
    if cameras is None:
        sys.stderr.write("This system lists cameras only by opening them: try --source 0, 1, ...\n")
    elif not cameras:
        sys.stderr.write("No camera found. Plug one in, or use a video file.\n")
    for camera in cameras or ():
        sys.stdout.write(f"{camera.index}\t{camera.name}\t{camera.path}\n")
    return 0
