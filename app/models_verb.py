"""The verb ``models``: list, verify and add networks."""

from __future__ import annotations

import argparse
import json
import re
import shutil
import sys
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from manypose.errors import UsageError, WeightsError
from manypose.models import own_networks, weights
from manypose.models.weights import Weights

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the verb's options."""
    parser.add_argument(
        "action", choices=tuple(_ACTIONS), help="list them, verify their SHA-256, add your own"
    )
    parser.add_argument(
        "file", nargs="?", type=Path, metavar="FILE",
        help="add: an .onnx file of Stage I, or a .toml that describes a network of your own",
    )  # fmt: skip
    parser.add_argument(
        "--name", metavar="NAME", help="add: the name for --model (default: FILE's)"
    )
    parser.add_argument("--licence", default="", metavar="TEXT", help="add: a note on its licence")
    parser.add_argument("--overwrite", action="store_true", help="add: replace what has this name")
    parser.add_argument("--json", action="store_true", help="machine-readable, on stdout")


def run(args: argparse.Namespace) -> int:
    """Do what was asked; returns the exit code."""
    if (args.action == "add") != (args.file is not None):
        need = "needs a FILE" if args.action == "add" else "takes no FILE"
        raise UsageError(f"manypose models {args.action} {need}")
    return _ACTIONS[args.action](args)


def _list(args: argparse.Namespace) -> int:
    rows = weights.known()
    if args.json:
        sys.stdout.write(json.dumps([_plain(r) for r in rows], indent=1) + "\n")
    elif not rows:
        sys.stdout.write(
            "no network is installed: reinstall manypose, or manypose models add FILE\n"
        )
    else:
        _table([
            ("name", "kind", "precision", "input", "licence", "file"),
            *((r.name, r.kind, r.precision, _size(r), r.licence or "not stated", str(r.path))
              for r in rows),
        ])  # fmt: skip
    return 0


def _verify(args: argparse.Namespace) -> int:
    """Compare every file with its manifest; exit code 5 when one is missing or changed."""
    results: list[dict[str, Any]] = []
    for row in weights.known():
        fault = ""
        try:
            weights.verify(row)
            if row.kind == "own":
                own_networks.read(row.path)
        except (WeightsError, UsageError) as error:
            fault = str(error)
        results.append(_plain(row) | {"ok": not fault, "fault": fault})
    if args.json:
        sys.stdout.write(json.dumps(results, indent=1) + "\n")
    else:
        for one in results:
            said = "ok" if one["ok"] else one["fault"]
            sys.stdout.write(f"{one['name']} {one['precision']} {one['sha256'][:12]}: {said}\n")
        if not results:
            sys.stdout.write("no network is installed: reinstall manypose\n")
    return 0 if results and all(r["ok"] for r in results) else WeightsError.exit_code


def _add(args: argparse.Namespace) -> int:
    """Copy a network into the user's folder, with its SHA-256 and licence."""
    file: Path = args.file
    if not file.is_file():
        raise WeightsError(f"{file}: no such file; give an .onnx or .toml file")
    name = args.name or file.stem
    if not _NAME.fullmatch(name) or ".." in name:
        raise UsageError(f"--name {name!r}: letters, digits, - _ and . only")
    if any(r.name == name for r in weights.manifest(weights.SHIPPED)):
        raise UsageError(f"{name} is a network of manypose itself; give another --name")
    top = weights.user_folder()
    old = [r for r in weights.manifest(top) if r.name == name]
    if old and not args.overwrite:
        raise UsageError(f"there is a network named {name}; give another --name, or --overwrite")
    suffix = file.suffix.lower()
    if suffix == ".onnx":
        files, row = _stage_one(file, name)
    elif suffix == ".toml":
        files, row = _own(file, name)
    else:
        raise UsageError(
            f"{file.name}: give an .onnx file of Stage I, or a .toml that describes your network "
            "(docs/own_networks.md)"
        )
    top.mkdir(parents=True, exist_ok=True)
    part, folder = top / f"{name}.part", top / name
    shutil.rmtree(part, ignore_errors=True)
    part.mkdir()
    try:
        for source, target in files:
            shutil.copyfile(source, part / target)
        if suffix == ".toml":
            _pin(part / row.path.name)
        if folder.exists():
            shutil.rmtree(folder)
        part.replace(folder)
    except OSError as error:
        raise WeightsError(
            f"{folder}: cannot be written ({error.strerror}); free the disk"
        ) from error
    finally:
        shutil.rmtree(part, ignore_errors=True)
    path = folder / row.path.name
    row = replace(
        row, path=path, sha256=weights.file_sha256(path), licence=args.licence or row.licence,
        source=str(file.name),
    )  # fmt: skip
    rest = [r for r in weights.manifest(top) if r.name != name]
    weights.write_manifest(top, [*rest, row])
    if args.json:
        sys.stdout.write(json.dumps(_plain(row), indent=1) + "\n")
    else:
        sys.stdout.write(f"{path}\n")
        sys.stderr.write(
            f"added: use it by --model {name}. Licence: {row.licence or 'not stated'}; check that "
            "you may use it.\n"
        )
    return 0


def _stage_one(file: Path, name: str) -> tuple[list[tuple[Path, str]], Weights]:
    from manypose.models import backends, onnx_file

    size = backends.input_size(file)
    meta = onnx_file.describe(file).metadata
    row = Weights(
        name, file, "stage1", meta.get("manypose.precision", "fp32"), "",
        meta.get("manypose.licence", ""), "", size,
    )  # fmt: skip
    return [(file, file.name)], row


def _own(file: Path, name: str) -> tuple[list[tuple[Path, str]], Weights]:
    own = own_networks.read(file)
    parts = [own.pose] + ([own.detector] if own.detector else [])
    files = [(file, file.name)]
    for part in parts:
        files.append((part.file, part.file.relative_to(file.parent.resolve()).as_posix()))
        if part.file.suffix.lower() == ".xml":
            twin = part.file.with_suffix(".bin")
            if not twin.is_file():
                raise WeightsError(f"{twin}: missing; an OpenVINO file needs its .bin beside it")
            files.append((twin, twin.relative_to(file.parent.resolve()).as_posix()))
    if any("/" in target for _, target in files):
        raise UsageError(f"{file}: put the network files beside it, not into folders below")
    licence = "; ".join(dict.fromkeys(p.licence for p in parts if p.licence))
    return files, Weights(name, file, "own", "fp32", "", licence, "", own.pose.input)


def _pin(path: Path) -> None:
    """Write the SHA-256 of the network files into a description that does not have them."""
    own = own_networks.read(path)  # it must hold without its former neighbours
    text = path.read_text("utf-8")
    for title, part in (("pose", own.pose), ("detector", own.detector)):
        if part is not None and not part.sha256:
            line = f'[{title}]\nsha256 = "{weights.file_sha256(part.file)}"'
            text = re.sub(rf"^[ \t]*\[[ \t]*{title}[ \t]*\]", line, text, count=1, flags=re.M)
    path.write_text(text, "utf-8")
    own_networks.read(path)


def _plain(row: Weights) -> dict[str, Any]:
    return asdict(row) | {"path": str(row.path)}


def _size(row: Weights) -> str:
    return f"{row.input_size[0]}x{row.input_size[1]}" if row.input_size else "-"


def _table(rows: list[tuple[str, ...]]) -> None:
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    for row in rows:
        sys.stdout.write("  ".join(c.ljust(w) for c, w in zip(row, widths)).rstrip() + "\n")


_ACTIONS = {"list": _list, "verify": _verify, "add": _add}
