"""Every error that a user can cause, under one root.

The message is a sentence that ends with the remedy; ``app.main`` prints it and leaves with the
class's ``exit_code``. Anything else that escapes is a defect and shows its traceback.
"""

from __future__ import annotations

import tokenize
import zipfile
import zlib


class ManyposeError(Exception):
    """Root of the errors a user can cause."""

    exit_code = 1


class UsageError(ManyposeError):
    """An option or a combination of options makes no sense."""

    exit_code = 2


class ConfigError(UsageError):
    """A settings file or a setting is wrong."""


class SourceError(ManyposeError):
    """A camera, file or stream gives no (further) pictures."""

    exit_code = 4


class CalibrationError(ManyposeError):
    """A camera file cannot be read or a calibration cannot be made."""

    exit_code = 4


class OutputError(ManyposeError):
    """Results cannot be written where they were asked for."""

    exit_code = 5


class WeightsError(ManyposeError):
    """A weight file is missing, damaged or of another network."""

    exit_code = 5


class DeviceError(ManyposeError):
    """A device, runtime, display or codec that was asked for cannot be had."""

    exit_code = 5


# What numpy, zipfile and zlib raise on damaged archives, as mutated files have shown.
ARCHIVE_DAMAGE = (
    OSError, ValueError, KeyError, TypeError, EOFError, OverflowError, MemoryError,
    NotImplementedError, RuntimeError, AttributeError, zipfile.BadZipFile, zlib.error,
    SyntaxError, tokenize.TokenError,
)  # fmt: skip
