"""Real-time multi-person 3D pose estimation from one camera."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

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
