"""All settings: one frozen dataclass per section, read from TOML files, environment and options.

Order, later wins: the defaults below (default.toml documents them), the user's file, manypose.toml
in the current folder, MANYPOSE_<SECTION>_<KEY>, options and ``--set section.key=value``. An unknown
key is refused with the nearest known one.
"""

from __future__ import annotations

import difflib
import os
import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any

from manypose.errors import ConfigError


@dataclass(frozen=True, slots=True)
class SourceConfig:
    """Where pictures come from; see default.toml for units."""

    rotate: str = "auto"
    realtime: bool = False
    fps: float = 0.0
    width: int = 1280
    height: int = 720
    camera_fps: float = 30.0
    open_timeout_s: float = 4.0
    read_timeout_s: float = 4.0
    decode_threads: int = 1
    hwaccel: str = "none"


@dataclass(frozen=True, slots=True)
class CameraConfig:
    """What is known of the lens."""

    file: str = ""
    fov_deg: float = 0.0


@dataclass(frozen=True, slots=True)
class ModelConfig:
    """Which network runs where."""

    name: str = "light"
    backend: str = "auto"
    device: str = "auto"
    precision: str = "auto"
    threads: int = 0
    input: str = ""
    target_fps: float = 0.0
    careful: str = "photographs"
    close_ups: bool = True
    long_shots: str = "recorded"
    portraits: str = "auto"
    glances: int = 2


@dataclass(frozen=True, slots=True)
class PeopleConfig:
    """Who is reported."""

    max: int = 20
    min_score: float = 0.4
    min_age: int = 3
    max_gap_s: float = 1.0


@dataclass(frozen=True, slots=True)
class FitConfig:
    """What is known of the bodies."""

    height_m: float = 0.0
    lock_bones_after: int = 60
    encodings: bool = True


@dataclass(frozen=True, slots=True)
class FilterConfig:
    """How motion is smoothed."""

    preset: str = "normal"
    smooth: str = "auto"


@dataclass(frozen=True, slots=True)
class OutputConfig:
    """Which files a run writes."""

    formats: tuple[str, ...] = ("npz", "csv", "jsonl", "coco")
    video: bool = False
    export: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Config:
    """All sections together."""

    source: SourceConfig = field(default_factory=SourceConfig)
    camera: CameraConfig = field(default_factory=CameraConfig)
    model: ModelConfig = field(default_factory=ModelConfig)
    people: PeopleConfig = field(default_factory=PeopleConfig)
    fit: FitConfig = field(default_factory=FitConfig)
    filter: FilterConfig = field(default_factory=FilterConfig)
    output: OutputConfig = field(default_factory=OutputConfig)

    def as_dict(self) -> dict[str, Any]:
        """Return the settings as plain nested dicts, ready for JSON."""
        tree = asdict(self)
        return {
            name: {k: list(v) if isinstance(v, tuple) else v for k, v in section.items()}
            for name, section in tree.items()
        }


_ONE_OF: dict[str, tuple[str, ...]] = {
    "source.rotate": ("auto", "0", "90", "180", "270"),
    "source.hwaccel": (
        "none", "auto", "cuda", "vaapi", "qsv", "amf", "drm", "videotoolbox", "d3d11va", "d3d12va",
        "vulkan",
    ),
    "model.backend": ("auto", "onnx", "openvino", "torch"),
    "model.precision": ("auto", "fp32", "fp16", "bf16", "int8"),
    "model.careful": ("photographs", "always", "never"),
    "model.long_shots": ("recorded", "always", "never"),
    "model.portraits": ("auto", "careful", "few", "largest", "always", "never"),
    "filter.preset": ("steady", "normal", "fast", "off"),
    "filter.smooth": ("auto", "none", "adaptive", "butterworth", "kalman"),
}  # fmt: skip
_RANGE: dict[str, tuple[float, float]] = {
    "source.fps": (0, 1000),
    "source.width": (16, 16384),
    "source.height": (16, 16384),
    "source.camera_fps": (1, 1000),
    "source.open_timeout_s": (0.1, 600),
    "source.read_timeout_s": (0.1, 600),
    "source.decode_threads": (0, 64),
    "camera.fov_deg": (0, 170),
    "model.threads": (0, 1024),
    "model.target_fps": (0, 1000),
    "model.glances": (0, 20),
    "people.max": (1, 100),
    "people.min_score": (0, 1),
    "people.min_age": (1, 1000),
    "people.max_gap_s": (0, 3600),
    "fit.height_m": (0, 3),
    "fit.lock_bones_after": (0, 1_000_000),
}


def user_file() -> Path:
    """Return where the user's own settings file is looked for (it need not exist)."""
    import platformdirs

    return Path(platformdirs.user_config_dir("manypose", appauthor=False)) / "manypose.toml"


def load_config(
    options: Iterable[tuple[str, Any]] = (),
    *,
    environ: Mapping[str, str] | None = None,
    user: Path | None = None,
    project: Path | None = None,
) -> Config:
    """Return the effective settings.

    Args:
        options: (dotted key, value) of the command line, later wins; a str value of a setting
            that is not text is read as TOML.
        environ: the environment; None takes that of the process.
        user: the user's settings file; None takes `user_file()`.
        project: the project's settings file; None takes manypose.toml in the current folder.

    Raises:
        ConfigError: an unknown key or a value of the wrong kind; the message names the place.
    """
    config = Config()
    for path in (user or user_file(), project or Path("manypose.toml")):
        if path.is_file():
            config = _apply_file(config, path)
    for name, text in sorted((os.environ if environ is None else environ).items()):
        key = _environment_key(name)
        if key is not None:
            config = set_value(config, key, text, f"environment variable {name}")
    for key, value in options:
        config = set_value(config, key, value, "command line")
    return config


def known_keys() -> list[str]:
    """Return every setting as "section.key"."""
    return [f"{s.name}.{k.name}" for s in fields(Config) for k in fields(getattr(Config(), s.name))]


def set_value(config: Config, key: str, value: Any, where: str) -> Config:
    """Return the settings with one changed; `where` names the place in error messages.

    Raises:
        ConfigError: the key is unknown or the value of the wrong kind or out of range.
    """
    known = known_keys()
    if key not in known:
        raise ConfigError(f"{where}: unknown setting {key!r}{nearest(key, known)}")
    section_name, name = key.split(".")
    section = getattr(config, section_name)
    choices = _ONE_OF.get(key, ())
    # settings that are switches to most people
    if "always" in choices and str(value).lower() in ("true", "false"):
        value = "always" if str(value).lower() == "true" else "never"
    value = _as_kind(value, getattr(section, name), key, where)
    if choices and value not in choices:
        raise ConfigError(f"{where}: {key} = {value!r}; choose one of {', '.join(choices)}")
    if key in _RANGE and not _RANGE[key][0] <= value <= _RANGE[key][1]:
        low, high = _RANGE[key]
        raise ConfigError(f"{where}: {key} = {value}; it must lie between {low} and {high}")
    changes: dict[str, Any] = {section_name: replace(section, **{name: value})}
    return replace(config, **changes)


def nearest(word: str, known: Iterable[str]) -> str:
    """Return '; did you mean ...?' for the nearest known word, or the empty string."""
    close = difflib.get_close_matches(word, list(known), 1, 0.5)
    return f"; did you mean {close[0]}?" if close else ""


def _apply_file(config: Config, path: Path) -> Config:
    try:
        tree = tomllib.loads(path.read_text("utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise ConfigError(f"{path}: not a settings file: {error}") from error
    sections = [f.name for f in fields(Config)]
    for section, values in tree.items():
        if section not in sections:
            raise ConfigError(f"{path}: unknown section [{section}]{nearest(section, sections)}")
        if not isinstance(values, dict):
            raise ConfigError(f"{path}: {section} must be a section: write [{section}]")
        for key, value in values.items():
            config = set_value(config, f"{section}.{key}", value, str(path))
    return config


def _environment_key(name: str) -> str | None:
    """Return the dotted key of MANYPOSE_SECTION_KEY, or None for any other variable.

    A name whose section is unknown is not ours to judge (MANYPOSE_HOME of some script); a key
    that is wrong within a known section is refused later.
    """
    if not name.startswith("MANYPOSE_"):
        return None
    section, _, key = name[len("MANYPOSE_") :].lower().partition("_")
    return f"{section}.{key}" if key and section in {f.name for f in fields(Config)} else None


def _as_kind(value: Any, like: Any, key: str, where: str) -> Any:
    """Return the value as the kind of `like`; texts of options and environment are parsed."""
    if isinstance(like, str):
        if isinstance(value, str):
            return value
        if isinstance(value, int) and not isinstance(value, bool):  # rotate = 90
            return str(value)
        raise ConfigError(f"{where}: {key} = {value!r}; it must be a text")
    if isinstance(value, str):
        value = _parse(value, like)
    if isinstance(like, tuple):
        if isinstance(value, (list, tuple)) and all(isinstance(v, str) for v in value):
            return tuple(value)
        raise ConfigError(f"{where}: {key} = {value!r}; it must be a list of names")
    if isinstance(like, bool):
        if isinstance(value, bool):
            return value
        raise ConfigError(f"{where}: {key} = {value!r}; it must be true or false")
    if isinstance(value, int) and not isinstance(value, bool):
        return float(value) if isinstance(like, float) else value
    if isinstance(value, float) and isinstance(like, float) and value == value:
        return value
    kind = "a number" if isinstance(like, float) else "a whole number"
    raise ConfigError(f"{where}: {key} = {value!r}; it must be {kind}")


def _parse(text: str, like: Any) -> Any:
    if isinstance(like, tuple) and not text.lstrip().startswith("["):
        return tuple(part.strip() for part in text.split(",") if part.strip())
    try:
        return tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        return text
