"""Which weight files there are: those shipped with the package and those a user has added.

Each folder has a `weights.toml` with one `[[network]]` table per file: name, kind, precision, file,
sha256, licence, input (width, height), source. A name may have several rows, one per precision.
"""

from __future__ import annotations

import hashlib
import json
import os
import tomllib
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from manypose.errors import WeightsError

SHIPPED = Path(__file__).resolve().parents[1] / "weights"
MANIFEST = "weights.toml"
PRECISIONS = ("fp32", "int8")
KINDS = (
    "stage1",
    "stage2",
    "portrait",
    "own",
)  # own: a network of the user's, described by a TOML file
_HEAD = "# Weight files of manypose: one [[network]] table for each file. Written by the program.\n"


@dataclass(frozen=True, slots=True)
class Weights:
    """One row of a manifest. input_size is (width, height) px or None; path is absolute."""

    name: str
    path: Path
    kind: str = "stage1"
    precision: str = "fp32"
    sha256: str = ""
    licence: str = ""
    source: str = ""
    input_size: tuple[int, int] | None = None


def user_folder() -> Path:
    """Return the folder of the user's own networks (MANYPOSE_MODELS, or the platform's place)."""
    import platformdirs

    named = os.environ.get("MANYPOSE_MODELS")
    return Path(named) if named else platformdirs.user_data_path("manypose") / "models"


def manifest(folder: Path) -> list[Weights]:
    """Return the rows of a folder's manifest; none when there is no manifest.

    Raises:
        WeightsError: the manifest is damaged or names files outside its folder.
    """
    path = folder / MANIFEST
    try:
        table = tomllib.loads(path.read_text("utf-8"))
    except FileNotFoundError:
        return []
    except (OSError, ValueError) as e:
        raise WeightsError(f"{path}: cannot be read ({e}); reinstall manypose or mend it") from e
    rows = table.get("network", [])
    if not isinstance(rows, list):
        raise WeightsError(f"{path}: wanted [[network]] tables; reinstall manypose or mend it")
    return [_row(path, row) for row in rows]


def _row(path: Path, row: Any) -> Weights:
    if not isinstance(row, dict):
        raise WeightsError(f"{path}: wanted [[network]] tables; reinstall manypose or mend it")
    text = {k: row.get(k, "") for k in ("name", "file", "sha256", "licence", "source")}
    kind, precision = row.get("kind", "stage1"), row.get("precision", "fp32")
    size = row.get("input")
    good = all(isinstance(v, str) for v in text.values()) and text["name"] and text["file"]
    good = good and (
        size is None
        or (
            isinstance(size, list)
            and len(size) == 2
            and all(type(s) is int and s > 0 for s in size)
        )
    )
    if not good or kind not in KINDS or precision not in PRECISIONS:
        raise WeightsError(f"{path}: bad row {text['name']!r}; reinstall manypose or mend it")
    return Weights(
        text["name"],
        inside(path.parent, text["file"]),
        kind,
        precision,
        text["sha256"],
        text["licence"],
        text["source"],
        (size[0], size[1]) if size else None,
    )


def inside(folder: Path, name: str) -> Path:
    """Return folder / name.

    Raises:
        WeightsError: the name leads out of the folder.
    """
    path = (folder / name).resolve()
    if not path.is_relative_to(folder.resolve()) or path == folder.resolve():
        raise WeightsError(f"{name!r} leads out of {folder}; name a file inside it")
    return path


def known() -> list[Weights]:
    """Return all rows: the shipped ones, then the user's."""
    return [*manifest(SHIPPED), *manifest(user_folder())]


def find(model: str, kind: tuple[str, ...] = ("stage1", "own")) -> list[Weights]:
    """Return the rows that a user's `--model` means: a name, or a file (.onnx, .xml, .toml).

    Raises:
        WeightsError: nothing has this name, or the file is not there.
    """
    path = Path(model)
    if path.suffix.lower() in (".onnx", ".xml", ".toml"):
        if not path.is_file():
            raise WeightsError(f"{model}: no such file; see `manypose models list` for names")
        row = Weights(path.stem, path.resolve(), "own" if path.suffix != ".onnx" else "stage1")
        return [row]
    rows = [row for row in known() if row.name == model and row.kind in kind]
    if not rows:
        names = sorted({row.name for row in known() if row.kind in kind})
        there = f"there are {', '.join(names)}" if names else "none is installed"
        raise WeightsError(
            f"no network named {model!r}; {there}. Give one of these, or an .onnx or .toml file"
        )
    return rows


def file_sha256(path: Path) -> str:
    """Return the SHA-256 of a file as hex digits; of an OpenVINO .xml with its .bin behind it.

    Raises:
        WeightsError: it cannot be read.
    """
    try:
        with path.open("rb") as f:
            digest = hashlib.file_digest(f, "sha256")
        if path.suffix.lower() == ".xml":
            digest.update(path.with_suffix(".bin").read_bytes())
        return digest.hexdigest()
    except OSError as e:
        raise WeightsError(
            f"{path}: cannot be read ({e.strerror}); reinstall manypose or name another --model"
        ) from e


def verify(row: Weights) -> str:
    """Return the file's SHA-256 after comparing it with the row's (if that has one).

    Raises:
        WeightsError: the file is missing or is not the one the manifest means.
    """
    got = file_sha256(row.path)
    if row.sha256 and got != row.sha256:
        raise WeightsError(
            f"{row.path}: damaged or changed (SHA-256 {got[:12]}..., wanted "
            f"{row.sha256[:12]}...); fetch it again"
        )
    return got


def record(row: Weights) -> None:
    """Write the row into the manifest beside its file; it replaces a row of the same file.

    The manifest is written whole or not at all.
    """
    folder = row.path.parent
    row = replace(row, sha256=row.sha256 or file_sha256(row.path))
    rows = [old for old in manifest(folder) if old.path != row.path.resolve()]
    write_manifest(folder, sorted([*rows, row], key=lambda r: (r.kind, r.name, r.precision)))


def write_manifest(folder: Path, rows: list[Weights]) -> None:
    """Write the manifest of a folder, whole or not at all."""
    text = _HEAD
    for row in rows:
        size = f"input = [{row.input_size[0]}, {row.input_size[1]}]\n" if row.input_size else ""
        # A JSON string is a TOML basic string.
        text += f"\n[[network]]\n{size}" + "".join(
            f"{key} = {json.dumps(value, ensure_ascii=False)}\n"
            for key, value in (
                ("name", row.name),
                ("kind", row.kind),
                ("precision", row.precision),
                ("file", row.path.resolve().relative_to(folder.resolve()).as_posix()),
                ("sha256", row.sha256),
                ("licence", row.licence),
                ("source", row.source),
            )
        )
    part = folder / (MANIFEST + ".part")
    part.write_text(text, "utf-8")
    part.replace(folder / MANIFEST)
