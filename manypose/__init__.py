"""Real-time multi-person 3D pose estimation from one camera."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

# Read by OpenCV when it is first imported: a damaged header must not ask for gigabytes (default:
# 2^30 pixels), and what is wrong with a file is said in our words, not in its own as well.
os.environ.setdefault("OPENCV_IO_MAX_IMAGE_PIXELS", str(1 << 27))
os.environ.setdefault("OPENCV_LOG_LEVEL", "OFF")

# ONNX Runtime's own packages report to their maker from version 1.32 on, unless this is set when it
# is first imported.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")

__version__ = "0.1.0"

if TYPE_CHECKING:
    from manypose.app.api import Pipeline, load, run

# The public names live in manypose.app.api, which needs OpenCV and an inference engine; they are
# looked up on first use, so that "import manypose" stays free of heavy libraries.
_PUBLIC = ("Pipeline", "load", "run")

__all__ = ["Pipeline", "__version__", "load", "run"]


def __getattr__(name: str) -> Any:
    if name in _PUBLIC:
        from manypose.app import api

        return getattr(api, name)
    raise AttributeError(f"module 'manypose' has no attribute {name!r}")
