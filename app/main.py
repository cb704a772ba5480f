"""The command line: ``manypose <verb>``; the only place that catches ManyposeError."""

from __future__ import annotations

import argparse
import atexit
import contextlib
import importlib
import importlib.util
import logging
import os
import signal
import sys
import threading
from collections.abc import Iterator, Sequence
from types import FrameType, ModuleType
from typing import NoReturn

import manypose
from manypose.app.config import nearest
from manypose.errors import DeviceError, ManyposeError, UsageError

# Verb -> (module with add_arguments(parser) and run(args) -> exit code, one line of help).
# Modules are imported only when their verb is asked for.
VERBS: dict[str, tuple[str, str]] = {
    "live": ("manypose.app.live", "camera or video in a window: skeletons in 3D, now"),
    "run": ("manypose.app.run", "recorded videos and pictures to 3D joint files"),
    "play": ("manypose.app.play", "show a recorded run again in the window"),
    "export": ("manypose.app.export", "turn a run into BVH, TRC, C3D and other formats"),
    "rescale": ("manypose.app.rescale", "give a run another body height or scale"),
    "smooth": ("manypose.app.smooth", "smooth a session or run afterwards, without delay"),
    "people": ("manypose.app.people", "who is in a run; join, split and rename identities"),
    "eval": ("manypose.app.evaluate", "score results against truth"),
    "bench": ("manypose.app.bench", "end-to-end frames per second and latency"),
    "calibrate": ("manypose.app.calibrate", "measure a camera with a board"),
    "cameras": ("manypose.app.cameras", "list the cameras of this machine"),
    "models": ("manypose.app.models_verb", "list, verify and add networks"),
    "train": ("manypose.models.train.command", "train the networks (extra: train)"),
    "prune": ("manypose.models.train.prune_command", "cut dead channels from trained weights"),
    "doctor": ("manypose.app.doctor", "say what works on this machine and how to mend the rest"),
}

EXAMPLES: dict[str, tuple[str, str]] = {
    "live": ("manypose live", "manypose live --source clip.mp4 --fov 70"),
    "run": ("manypose run clip.mp4 -o out", "manypose run clips/ -o out --video --export bvh"),
    "play": ("manypose play out/clip", "manypose play last"),
    "export": ("manypose export out/clip --to bvh,trc", "manypose export out/clip --to c3d -o c3d"),
    "rescale": ("manypose rescale out/clip --height 1.78", "manypose rescale out/clip --scale 0.9"),
    "smooth": ("manypose smooth last", "manypose smooth out/clip --smooth butterworth -o calm"),
    "people": ("manypose people out/clip", "manypose people out/clip --edit-ids 5=2,3@12.5=9"),
    "eval": ("manypose eval coco out/photos truth.json", "manypose eval mupots MuPoTS out --json"),
    "bench": ("manypose bench", "manypose bench clip.mp4 --json"),
    "calibrate": ("manypose calibrate board.mp4 -o cam.toml", "manypose calibrate --help"),
    "cameras": ("manypose cameras", "manypose cameras --json"),
    "models": ("manypose models list", "manypose models verify"),
    "train": ("manypose train stage1 --preset smoke", "manypose train --help"),
    "prune": ("manypose prune ema.pt --simulate", "manypose prune ema.pt -o small.onnx"),
    "doctor": ("manypose doctor", "manypose doctor --json"),
}

EXIT_CODES = (
    "exit codes: 0 all well, 1 defect in manypose, 2 wrong use, 3 part of the work failed,"
    " 4 no usable input, 5 model, device, display or disk missing, 130 Ctrl-C, 143 terminated"
)


class Terminated(KeyboardInterrupt):
    """The system asks the program to end (SIGTERM): handled like Ctrl-C."""

    exit_code = 143


class _Parser(argparse.ArgumentParser):
    """Raises UsageError instead of leaving, and names the nearest option."""

    def error(self, message: str) -> NoReturn:
        raise UsageError(f"{message}. See: {self.prog} --help")

    def parse_all(self, words: Sequence[str]) -> argparse.Namespace:
        """Return the parsed words; a word left over is an error that names the nearest option."""
        args, rest = self.parse_known_args(words)
        if rest:
            known = [o for o in self._option_string_actions if o.startswith("--")]
            hint = nearest(rest[0].partition("=")[0], known)
            kind = "option" if rest[0].startswith("-") else "argument"
            raise UsageError(f"unknown {kind} {rest[0]}{hint}. See: {self.prog} --help")
        return args


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; returns its exit code."""
    words = list(sys.argv[1:] if argv is None else argv)
    verbose = any(w in ("-v", "-vv", "--verbose") for w in words)
    # Frames are what goes in parallel; threads within their small products would only get in the
    # way. Read when numpy is loaded, which no import of this module does.
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    try:
        with _signals():
            code = _dispatch(words)
            sys.stdout.flush()
            return code
    except KeyboardInterrupt as stop:
        return stop.exit_code if isinstance(stop, Terminated) else 130
    except BrokenPipeError:
        # The reader has gone (| head). Python would complain once more when it closes stdout.
        with contextlib.suppress(OSError, ValueError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except SystemExit as leaving:  # argparse after --help and --version
        return leaving.code if isinstance(leaving.code, int) else 0
    except ManyposeError as error:
        if verbose:
            logging.getLogger("manypose").debug("traceback", exc_info=error)
        sys.stderr.write(f"manypose: {error}\n")
        return error.exit_code
    except Exception as error:  # noqa: BLE001 - the last place that can tell the user anything
        return _defect(error, verbose)


def _dispatch(words: list[str]) -> int:
    before = []
    while words and words[0].startswith("-") and words[0] not in ("-h", "--help", "--version"):
        before.append(words.pop(0))
    if not words or words[0] in ("-h", "--help"):
        sys.stdout.write(_help())
        return 0 if words else UsageError.exit_code
    if words[0] == "--version":
        sys.stdout.write(f"manypose {manypose.__version__}\n")
        return 0
    verb, rest = words[0], words[1:]
    if verb not in VERBS:
        raise UsageError(f"unknown command {verb!r}{nearest(verb, VERBS)}. See: manypose --help")
    module = _module(verb)
    parser = _parser(verb)
    module.add_arguments(parser)
    args = parser.parse_all([*before, *rest])
    _set_up_log(args)
    code: int = module.run(args)
    return code


def _module(verb: str) -> ModuleType:
    name = VERBS[verb][0]
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        missing = error.name or ""
        if missing == name or missing.startswith("manypose."):
            raise UsageError(f"manypose {verb} is not part of this installation.") from error
        remedy = _EXTRA_OF.get(missing.partition(".")[0], missing)
        raise DeviceError(
            f"manypose {verb} needs {missing}, which is not installed. Run: pip install {remedy}"
        ) from error


_EXTRA_OF = {
    "torch": "'manypose[train]'",
    "onnx": "'manypose[train]'",
    "PyQt5": "'manypose[gui]'",
    "pyqtgraph": "'manypose[gui]'",
    "OpenGL": "'manypose[gui]'",
    "ezc3d": "'manypose[biomech]'",
    "pythonosc": "'manypose[stream]'",
    "ray": "'manypose[batch]'",
}


def _parser(verb: str) -> _Parser:
    examples = "\n".join(f"  {line}" for line in EXAMPLES[verb])
    parser = _Parser(
        prog=f"manypose {verb}",
        description=f"{VERBS[verb][1][0].upper()}{VERBS[verb][1][1:]}.",
        epilog=f"examples:\n{examples}\n\n{EXIT_CODES}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
        conflict_handler="resolve",
    )
    every = parser.add_argument_group("for every command")
    every.add_argument("-q", "--quiet", action="store_true", help="warnings and errors only")
    every.add_argument("-v", "--verbose", action="count", default=0, help="more on stderr")
    every.add_argument("--no-color", action="store_true", help="no colours (also: NO_COLOR=1)")
    every.add_argument(
        "--set", action="append", metavar="KEY=VALUE", help="any setting, as section.key=value"
    )
    return parser


def _help() -> str:
    width = max(map(len, VERBS))
    lines = [
        "usage: manypose COMMAND ...",
        "",
        "Metric 3D skeletons of everybody in view, from one ordinary camera.",
        "",
        "commands:",
        *(f"  {verb:<{width}}  {text}" for verb, (_, text) in VERBS.items()),
        "",
        "manypose COMMAND --help explains a command; manypose --version.",
        EXIT_CODES,
        "",
    ]
    return "\n".join(lines)


def _set_up_log(args: argparse.Namespace) -> None:
    """Send the log to stderr, and with everything in it to the log file of the user."""
    if args.no_color:
        os.environ["NO_COLOR"] = "1"
    root = logging.getLogger("manypose")
    root.setLevel(logging.DEBUG)
    root.propagate = False
    for old in list(root.handlers):
        root.removeHandler(old)
        old.close()
    screen = logging.StreamHandler(sys.stderr)
    screen.setLevel(
        logging.WARNING if args.quiet else logging.DEBUG if args.verbose else logging.INFO
    )
    screen.setFormatter(logging.Formatter("manypose: %(message)s"))
    screen.addFilter(_Repeats())
    root.addHandler(screen)
    with contextlib.suppress(OSError):
        root.addHandler(_log_file())


def _log_file() -> logging.Handler:
    import logging.handlers
    from pathlib import Path

    import platformdirs

    folder = Path(platformdirs.user_log_dir("manypose", appauthor=False))
    folder.mkdir(parents=True, exist_ok=True)
    handler = logging.handlers.RotatingFileHandler(
        folder / "manypose.log", maxBytes=1_000_000, backupCount=2, encoding="utf-8", delay=True
    )
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    return handler


class _Repeats(logging.Filter):
    """Lets a warning through three times, then at every power of two, with its count."""

    def __init__(self) -> None:
        super().__init__()
        self._seen: dict[tuple[str, int], int] = {}

    def filter(self, record: logging.LogRecord) -> bool:
        if record.levelno < logging.WARNING:
            return True
        key = (record.pathname, record.lineno)
        count = self._seen[key] = self._seen.get(key, 0) + 1
        if count <= 3:
            return True
        if count & (count - 1):
            return False
        record.msg, record.args = f"{record.getMessage()} (so far {count} times)", ()
        return True


def _defect(error: Exception, verbose: bool) -> int:
    log = logging.getLogger("manypose")
    log.debug("defect", exc_info=error)
    sys.stderr.write(
        f"manypose: defect: {type(error).__name__}: {error}. The traceback is in the log file"
        f"{'' if verbose else ' and with -v on the screen'}; please report it.\n"
    )
    return 1


@contextlib.contextmanager
def _signals() -> Iterator[None]:
    """Treat SIGTERM like Ctrl-C while the command runs."""

    def terminate(_signal: int, _frame: FrameType | None) -> NoReturn:
        raise Terminated

    try:
        before = signal.signal(signal.SIGTERM, terminate)
    except ValueError:  # not in the main thread: someone else's program
        yield
        return
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def leave(code: int) -> NoReturn:
    """Leave the process with this code, though a library may be at work in another thread.

    The interpreter ends such a thread by unwinding it, which the C++ of a network's engine takes
    for a defect: it would abort the process instead.
    """
    if any(thread.daemon for thread in threading.enumerate()):
        atexit._run_exitfuncs()
        for stream in (sys.stdout, sys.stderr):
            with contextlib.suppress(OSError, ValueError):
                stream.flush()
        os._exit(code)
    sys.exit(code)


def program() -> NoReturn:
    """Run the command line of this process and leave with its exit code."""
    try:
        code = main()
    except SystemExit as asked:  # by the window, which a signal has closed
        code = asked.code if isinstance(asked.code, int) else 1
    leave(code)


if __name__ == "__main__":
    program()
