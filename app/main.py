"""The command line: ``manypose <verb>``; the only place that catches ManyposeError."""

from __future__ import annotations

import argparse
import importlib
import logging
import signal
import sys
from collections.abc import Sequence
from typing import Any

import manypose
from manypose.errors import ManyposeError

# Verb -> (module with add_arguments(parser) and run(args) -> exit code, one line of help).
# Modules are imported only when their verb is asked for.
VERBS: dict[str, tuple[str, str]] = {
    "live": ("manypose.app.live", "camera or video in a window: skeletons in 3D, now"),
    "run": ("manypose.app.run", "recorded videos and pictures to 3D joint files"),
    "play": ("manypose.app.play", "show a recorded run again in the window"),
    "export": ("manypose.app.export", "turn a run into BVH, TRC, C3D and other formats"),
    "rescale": ("manypose.app.rescale", "give a run another body height or scale"),
    "eval": ("manypose.app.evaluate", "score results against truth"),
    "bench": ("manypose.app.bench", "end-to-end frames per second and latency"),
    "calibrate": ("manypose.app.calibrate", "measure a camera with a board"),
    "cameras": ("manypose.app.cameras", "list the cameras of this machine"),
    "models": ("manypose.app.models_verb", "list, verify and add networks"),
    "train": ("manypose.models.train.command", "train the networks (extra: train)"),
    "doctor": ("manypose.app.doctor", "say what works on this machine and how to mend the rest"),
}
