"""The documentation says what the program does: commands, targets, links, examples, options.

Run as a program it writes the tables of docs/commands.md anew from the parsers and default.toml.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import os
import re
import shlex
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from manypose.app import main as program
from manypose.app.config import known_keys
from manypose.errors import ManyposeError

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "tests" / "app"))  # made_clips, drawn_engine

PAGES = sorted(
    path
    for path in (
        ROOT / "README.md",
        *(ROOT / "docs").glob("*.md"),
        *(ROOT / "weights").glob("*.md"),
    )
    if path.is_file()
)
COMMANDS = ROOT / "docs" / "commands.md"


def _name(value: object) -> str:
    return value.name if isinstance(value, Path) else str(value)


@pytest.mark.parametrize("page", PAGES, ids=_name)
def test_every_command_line_is_understood(page: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT / "docs")
    wrong = [f"{line}\n    {error}" for line in command_lines(page) if (error := refused(line))]
    assert not wrong, "\n".join(wrong)


def test_the_check_of_command_lines_bites() -> None:
    for line in (
        "manypose run clip.mp4 --hieght 1.8",
        "manypose rnu clip.mp4",
        "manypose run clip.mp4 --filter stready",
        "manypose run clip.mp4 --set people.maxx=3",
        "manypose run clip.mp4 --export bhv",
        "manypose export out/clip --to bhv",
    ):
        assert refused(line), line
    assert refused("MANYPOSE_PEOPLE_MAX=3 manypose run clip.mp4 -o out | head > x.txt") is None
    assert refused("manypose run --help") is None


def test_the_training_script_gives_commands_that_are_understood(tmp_path: Path) -> None:
    pytest.importorskip("torch")
    shell = shutil.which("sh")
    if shell is None:
        pytest.skip("no sh")
    told = tmp_path / "manypose"
    told.write_text('#!/bin/sh\necho manypose "$@"\n')
    told.chmod(0o755)
    script = ROOT / "docs" / "examples" / "train_small.sh"
    env = {
        "PATH": f"{tmp_path}{os.pathsep}{os.environ['PATH']}", "PHOTOS": "coco:a.json", "VAL": "v",
        "AVATARS": "avatars.zip", "MOCAP": "mocap.npz", "INIT": "ema.pt", "EMPTY": "folder:empty",
    }  # fmt: skip
    done = subprocess.run(
        [shell, str(script), "out"], env=env, capture_output=True, text=True, check=True
    )
    lines = done.stdout.splitlines()
    assert len(lines) == 10
    wrong = [f"{line}: {error}" for line in lines if (error := refused(line))]
    assert not wrong


@pytest.mark.parametrize("page", PAGES, ids=_name)
def test_every_link_leads_somewhere(page: Path) -> None:
    lost = []
    for target in re.findall(r"\]\(([^)\s]+)\)", _without_code(page.read_text("utf-8"))):
        if re.match(r"[a-z]+:", target):
            continue
        path, _, anchor = target.partition("#")
        file = (page.parent / path) if path else page
        if not file.exists() or (anchor and anchor not in _anchors(file)):
            lost.append(target)
    assert not lost


@pytest.mark.parametrize("page", PAGES, ids=_name)
def test_every_make_target_is_there(page: Path) -> None:
    targets = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text("utf-8"), re.M))
    named = {
        word
        for text in code(page)
        for word in re.findall(r"(?:^|[;&]\s*)make ([a-z]+)\b", text, re.M)
    }
    assert named <= targets


def test_every_file_named_in_code_is_there() -> None:
    kinds = r"(?:app|models|pose|calib|weights|docs|tests)/[\w/]+\.(?:py|toml|md|npz)"
    for page in PAGES:
        for text in code(page):
            for name in re.findall(rf"(?<![\w/.]){kinds}", text):
                assert (ROOT / name).is_file(), f"{page.name}: {name}"


def test_the_site_has_every_page_it_names() -> None:
    nav = (ROOT / "mkdocs.yml").read_text("utf-8").split("\nnav:")[1]
    pages = re.findall(r": ([\w/]+\.md)$", nav, re.M)
    assert "index.md" in pages
    assert len(set(pages)) == len(pages)
    assert [p for p in pages if not (ROOT / "docs" / p).is_file()] == []


def test_tables_of_options_are_those_of_the_parsers() -> None:
    for verb in program.VERBS:
        pytest.importorskip("torch") if verb in ("train", "prune") else None
    told = COMMANDS.read_text("utf-8")
    assert told == made_anew(told), "run: python -m tests.test_docs"


def test_settings_and_their_explanations_agree() -> None:
    rows = re.findall(r"^\| `([\w.]+)` \| `", _block(COMMANDS.read_text("utf-8"), "settings"), re.M)
    assert rows == known_keys()


@pytest.mark.slow
def test_the_python_examples_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from drawn_engine import drawn_engine
    from made_clips import write_clip

    from manypose.app import api
    from manypose.app import run as run_module

    for name in ("HOME", "XDG_CONFIG_HOME", "XDG_STATE_HOME", "XDG_CACHE_HOME", "XDG_DATA_HOME"):
        monkeypatch.setenv(name, str(tmp_path))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(api, "load_engine", drawn_engine)
    monkeypatch.setattr(run_module, "load_engine", drawn_engine)
    write_clip(Path("clip.mp4"), 12, size=(480, 288))
    assert program.main(["run", "clip.mp4", "-q"]) == 0
    capsys.readouterr()
    scope: dict[str, object] = {}
    page = ROOT / "docs" / "python_api.md"
    blocks = re.findall(r"^```python\n(.*?)^```", page.read_text("utf-8"), re.M | re.S)
    assert len(blocks) >= 5
    for block in blocks:
        exec(compile(block, page.name, "exec"), scope)
    said = capsys.readouterr().out
    assert "person 0 is 4.0 m away" in said
    assert "12 frames, [0, 1]" in said
    assert "missing.mp4" in said


def code(page: Path) -> Iterator[str]:
    """Yield the code of a page: shell blocks as they are, then indented blocks, then words."""
    text = page.read_text("utf-8")
    for kind, block in re.findall(r"^```(\w*)\n(.*?)^```", text, re.M | re.S):
        if kind in ("", "sh", "bash"):
            yield block
    plain = re.sub(r"^```.*?^```", "", text, flags=re.M | re.S)
    yield from re.findall(r"(?:^ {4}.*\n)+", plain, re.M)
    yield from (" ".join(words.split()) for words in re.findall(r"`([^`]+)`", plain))


def command_lines(page: Path) -> Iterator[str]:
    """Yield every command line of a page that calls manypose with a command."""
    for text in code(page):
        for line in re.sub(r"\\\n\s*", " ", text).splitlines():
            if re.search(r"(?:^|[\s/])manypose [a-z]", line) and "python -m" not in line:
                yield line.strip()


def refused(line: str) -> str | None:
    """Return why the program would not take a command line; None if it would."""
    try:
        words = shlex.split(line, comments=True)
    except ValueError as error:
        return str(error)
    at = next((i for i, w in enumerate(words) if w.rpartition("/")[2] == "manypose"), None)
    if at is None or at + 1 == len(words):
        return None
    words = words[at + 1 :]
    for i, word in enumerate(words):
        if word in ("|", ">", "2>", "&&", "&", ";"):
            words = words[:i]
            break
    verb, rest = words[0], words[1:]
    if verb not in program.VERBS:
        return f"no command {verb}"
    if not rest:
        return None  # the command is only named
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            args = parser_of(verb).parse_all(rest)
        _values(verb, args)
    except SystemExit as leaving:
        return None if not leaving.code else f"exit {leaving.code}"
    except ManyposeError as error:
        return str(error)
    return None


def _values(verb: str, args: argparse.Namespace) -> None:
    """Look at the values as the command would: settings and names of formats."""
    if verb in ("run", "live", "bench"):
        from manypose.app.options import settings
        from manypose.app.run import _check_formats

        if verb != "run":
            args.format = None
        config = settings(args)
        if verb == "run" and config.output.export != ("LIST",):
            _check_formats(config)
    if verb == "export":
        from manypose.app.export import check_formats

        names = [n for n in args.to.split(",") if n]
        if names not in (["LIST"], ["..."]):
            check_formats(names)


def parser_of(verb: str) -> program._Parser:
    """Return the parser of a command, or skip where its extra is not installed."""
    try:
        module = program._module(verb)
    except ManyposeError as error:
        pytest.skip(str(error))
    parser = program._parser(verb)
    module.add_arguments(parser)
    return parser


def _without_code(text: str) -> str:
    return re.sub(r"`[^`\n]*`", "", re.sub(r"^```.*?^```", "", text, flags=re.M | re.S))


def _anchors(page: Path) -> set[str]:
    heads = re.findall(r"^#+ (.+)$", re.sub(r"^```.*?^```", "", page.read_text("utf-8"),
                                            flags=re.M | re.S), re.M)  # fmt: skip
    return {re.sub(r"[^\w\- ]", "", head.lower()).strip().replace(" ", "-") for head in heads}


def _block(text: str, name: str) -> str:
    return text.split(f"<!-- made: {name} -->\n")[1].split("<!-- end -->")[0]


def made_anew(text: str) -> str:
    """Return the page with its tables made from the program."""
    made: dict[str, Callable[[], str]] = {
        "verbs": _verbs, "settings": _settings, "options": _options,
    }  # fmt: skip
    for name, make in made.items():
        head, mark, rest = text.partition(f"<!-- made: {name} -->\n")
        text = head + mark + "\n" + make() + "\n" + rest[rest.index("<!-- end -->") :]
    return text


def _verbs() -> str:
    rows = [f"| [`{v}`](#{v}) | {line} |" for v, (_, line) in program.VERBS.items()]
    return "\n".join(["| command | does |", "|---|---|", *rows, ""])


def _settings() -> str:
    text = (ROOT / "app" / "default.toml").read_text("utf-8")
    rows = ["| setting | default | meaning |", "|---|---|---|"]
    section = ""
    for line in text.splitlines():
        if line.startswith("["):
            section = line.strip("[]")
        elif match := re.match(r"(\w+) = (.*?)\s+# (.*)$", line):
            tomllib.loads(f"{match[1]} = {match[2]}")
            meaning = match[3].replace("|", "\\|")
            rows.append(f"| `{section}.{match[1]}` | `{match[2]}` | {meaning} |")
        elif match := re.match(r"(\w+) = (.*)$", line):
            rows.append(f"| `{section}.{match[1]}` | `{match[2]}` | |")
    return "\n".join([*rows, ""])


def _options() -> str:
    lines: list[str] = []
    for verb in program.VERBS:
        parser = parser_of(verb)
        lines += [f"### {verb}", ""]
        steps = [a for a in parser._actions if isinstance(a, argparse._SubParsersAction)]
        if not steps:
            lines += [*_table(parser), ""]
            continue
        for name, step in steps[0].choices.items():
            lines += [f"#### {verb} {name}", "", *_table(step), ""]
    return "\n".join(lines)


def _table(parser: argparse.ArgumentParser) -> list[str]:
    rows = ["| option | meaning |", "|---|---|"]
    for action in parser._actions:
        everywhere = {"-h", "-q", "-v", "--no-color", "--set"} & set(action.option_strings)
        if action.help == argparse.SUPPRESS or everywhere:
            continue
        value = action.metavar or action.dest.upper()
        value = value if isinstance(value, str) else " ".join(value)
        if action.choices is not None and action.metavar is None:
            value = " ".join(map(str, action.choices)) if len(list(action.choices)) < 6 else "NAME"
        name = ", ".join(action.option_strings)
        if not action.option_strings:
            name = value
        elif action.nargs != 0 and not isinstance(action, argparse.BooleanOptionalAction):
            name = f"{name} {value}"
        meaning = (action.help or "").replace("|", "\\|")
        if name == "--to LIST":
            meaning = "comma list of the names in [into other programs](exports.md)"
        choices = action.choices if value == "NAME" and action.metavar is None else None
        if choices:
            meaning = f"{meaning}; one of {', '.join(map(str, choices))}".lstrip("; ")
        name = name.replace("|", "\\|")
        rows.append(f"| `{name}` | {meaning} |")
    return rows


if __name__ == "__main__":
    COMMANDS.write_text(made_anew(COMMANDS.read_text("utf-8")), encoding="utf-8")
