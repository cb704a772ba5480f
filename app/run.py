"""The verb ``run``: recorded videos, pictures and streams to 3D joint files."""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import functools
import json
import logging
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from manypose.app.completion import complete, decided, draws_later
from manypose.app.config import Config, nearest
from manypose.app.finder import FRAMES_MIN, with_finder
from manypose.app.folder import results_in
from manypose.app.formats import WRITERS
from manypose.app.formats.jsonl import frame_object
from manypose.app.inputs import Input, plan
from manypose.app.options import add_settings, add_streams, settings
from manypose.app.pipeline import Engine, for_live, load_detector, load_engine
from manypose.app.process import Job, Summary, Tally, process
from manypose.app.progress import make_progress
from manypose.app.remembered import remember
from manypose.app.sources import Source, open_source, threads_lent
from manypose.app.stream import Stream, streaming
from manypose.errors import ManyposeError, UsageError
from manypose.pose.hindsight import Hindsight
from manypose.pose.records import FrameResult

if TYPE_CHECKING:
    from manypose.app.batch import Batch

log = logging.getLogger(__name__)

DEFAULT_FOLDER = "out"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the verb's options."""
    parser.add_argument(
        "inputs",
        nargs="*",
        metavar="INPUT",
        help="video, picture, folder, tree, glob, .txt list, rtsp:// or http:// address, camera",
    )
    parser.add_argument(
        "-o",
        "--output",
        "--out",
        metavar="DIR",
        default=DEFAULT_FOLDER,
        help="results go to DIR/<name of the input>/ (default: out); - = JSON lines on stdout",
    )
    add_settings(
        parser, "output.formats", "output.video", "output.export", "camera.file", "camera.fov_deg",
        "fit.height_m", "people.max", "filter.preset", "filter.smooth", "source.rotate",
        "source.realtime", "model.name", "model.backend", "model.device", "model.precision",
        "model.threads",
        "model.input", "model.target_fps", "model.careful",
    )  # fmt: skip
    parser.add_argument("--still", action="store_true", help="every picture on its own: no tracks")
    parser.add_argument("--seconds", type=float, default=0.0, help="stop after so many seconds")
    add_streams(parser, "streams (results to other programs while the run goes on)")
    bulk = parser.add_argument_group("many files (docs/growing.md)")
    bulk.add_argument(
        "--batch", action="store_true", help="share the files among several workers (extra: batch)"
    )
    bulk.add_argument(
        "--workers", type=int, default=0, metavar="N", help="0: one on each GPU, else on each core"
    )
    again = parser.add_mutually_exclusive_group()
    again.add_argument("--overwrite", action="store_true", help="replace earlier results")
    again.add_argument("--resume", action="store_true", help="skip what is done, finish the rest")
    parser.add_argument("--json", action="store_true", help="the summary as JSON on stdout")
    parser.add_argument(
        "--progress",
        choices=("auto", "bar", "plain", "json", "none"),
        default="auto",
        help="how progress is shown on stderr",
    )
    parser.add_argument("--no-gui", action="store_true", help="accepted; run never opens a window")


def run(args: argparse.Namespace) -> int:
    """Run every input through; returns the exit code of the worst."""
    config = settings(args)
    _check_formats(config)
    if args.output == "-":
        return _to_stdout(args, config)
    undecided, config = config, decided(config, args)
    inputs = plan(args.inputs, Path(args.output))
    if not (args.overwrite or args.resume):
        _refuse_existing(inputs)
    summaries = []
    with (
        streaming(args) as streams,
        _batch(args, config, inputs) as batch,
        make_progress(args.progress, quiet=args.quiet) as progress,
        contextlib.ExitStack() as ending,
    ):
        tellers = (progress.step, *(_sending(stream) for stream in streams))
        engines: dict[tuple[bool, bool], Engine] = {}  # of (live, photographs)
        if batch:
            engines[False, batch.still] = batch.engine
        ready = batch.ready(inputs) if batch else inputs
        for number, one in enumerate(ready, 1):
            progress.start(Path(one.address).name, number, len(inputs))
            try:
                source = open_source(one.address, config)
                asked = for_live(undecided) if source.live else config
                still = args.still or source.info.stills
                kind = source.live, still
                if kind not in engines:
                    engines[kind] = with_finder(
                        _loaded(source, asked, still=still),
                        functools.partial(load_detector, still=still),
                        asked,
                    )
                    if (finder := engines[kind].finder) is not None:
                        ending.callback(finder.close)
                engine = engines[kind]
                long = source.live or (source.info.frames or 0) >= FRAMES_MIN
                # While pictures are drawn and encoded, memory is too short for two processes.
                later = draws_later(source, asked)
                if engine.finder is not None and long and (later or not config.output.video):
                    engine.finder.start()
                summary = process(_job(one, asked, args, tellers, draw=not later), source, engine)
                if engine.finder is not None and later:
                    engine.finder.rest()
                summary = complete(summary, one.address, asked, progress, draw=later)
                summary = _exported(summary, config)
            except ManyposeError as error:
                if not engines and error.exit_code in (2, 5):
                    raise  # no network, or none as asked for: not the fault of this input
                summary = _failed(one, str(error), error.exit_code)
            except Exception as error:  # one bad file never stops the rest
                log.debug("%s", one.address, exc_info=error)
                text = f"{one.address}: defect: {type(error).__name__}: {error} (-v shows more)"
                summary = _failed(one, text, 1)
            summaries.append(summary)
            _tell(summary)
            if summary.outputs:
                remember(Path(summary.folder))
            if summary.status == "interrupted":
                break
    code = exit_code(summaries)
    _report(summaries, code, args)
    return code


@contextlib.contextmanager
def _batch(
    args: argparse.Namespace, config: Config, inputs: Sequence[Input]
) -> Iterator[Batch | None]:
    """Yield the workers of --batch, loaded; None without."""
    if not args.batch:
        if args.workers:
            raise UsageError("--workers belongs to --batch")
        yield None
        return
    if args.seconds:
        raise UsageError("--batch takes whole files: leave --seconds or --batch out")
    from manypose.app.batch import Batch
    from manypose.app.crew import make_crew

    still = args.still or _begins_with_photographs(inputs, config)
    crew = make_crew(load_engine, config, args.workers, still=still)
    batch = Batch(crew, load_engine, config, still=still, every=args.still, resume=args.resume)
    try:
        yield batch
    finally:
        batch.close()


def _begins_with_photographs(inputs: Sequence[Input], config: Config) -> bool:
    for one in inputs:
        with contextlib.suppress(ManyposeError), open_source(one.address, config) as source:
            return source.info.stills
    return False


def _loaded(source: Source, config: Config, *, still: bool) -> Engine:
    # Where nobody waits for a frame, one per core in flight gives the most frames a second.
    batch = 1 if source.live else min(config.model.threads or threads_lent(), 8)
    try:
        return load_engine(config, still=still, batch=batch)
    except BaseException:
        source.close()
        raise


Teller = Callable[[FrameResult, Tally, Source], None]


def _sending(stream: Stream) -> Teller:
    return lambda result, tally, source: stream.put(result)


def _job(
    one: Input, config: Config, args: argparse.Namespace, tellers: Sequence[Teller], *, draw: bool
) -> Job:
    def tell(result: FrameResult, tally: Tally, source: Source) -> None:
        for teller in tellers:
            teller(result, tally, source)

    return Job(
        one.address,
        one.folder,
        config,
        resume=args.resume or args.batch,
        seconds_max=args.seconds,
        command=["manypose", *sys.argv[1:]],
        draw=draw,
        on_result=tell,
    )


def _check_formats(config: Config) -> None:
    for name in config.output.formats:
        if name not in WRITERS:
            raise UsageError(
                f"--format: unknown format {name!r}{nearest(name, WRITERS)}; there are"
                f" {', '.join(WRITERS)} (and --export for those of other programs)"
            )
    if config.output.export:
        from manypose.app.export import check_formats

        check_formats(config.output.export)


def _refuse_existing(inputs: Sequence[Input]) -> None:
    there = [one for one in inputs if results_in(one.folder)]
    if there:
        more = f" (and {len(there) - 1} more)" if len(there) > 1 else ""
        raise UsageError(
            f"{there[0].folder}{more} has results already: --overwrite replaces them, --resume"
            " finishes what is unfinished, -o DIR writes elsewhere"
        )


def _exported(summary: Summary, config: Config) -> Summary:
    if not config.output.export or summary.status not in ("ok", "partial", "done"):
        return summary
    from manypose.app.export import export_run

    made = export_run(Path(summary.folder), config.output.export)
    names = [os.path.relpath(path, summary.folder) for path in made]
    return dataclasses.replace(summary, outputs=(*summary.outputs, *names))


def _failed(one: Input, text: str, code: int) -> Summary:
    return Summary(one.address, str(one.folder), "failed", error=text, exit_code=code)


def _tell(summary: Summary) -> None:
    for warning in summary.warnings:
        log.warning("%s: %s", Path(summary.input).name, warning)
    if summary.status == "failed":
        log.error("%s", summary.error)
        if summary.outputs:
            log.warning("results up to there are in %s", summary.folder)
    elif summary.status == "partial":
        log.warning("%s: what was read is in %s", Path(summary.input).name, summary.folder)
    elif summary.status == "interrupted":
        again = (
            ", --resume goes on" if summary.x_real_time is not None else ""
        )  # not of what is live
        log.warning("stopped; results so far are in %s%s", summary.folder, again)


def exit_code(summaries: Sequence[Summary]) -> int:
    """Return the exit code of a run over several inputs: that of the worst."""
    failed = [s for s in summaries if s.status == "failed"]
    if any(s.status == "interrupted" for s in summaries):
        return max(130, summaries[-1].exit_code)
    if any(s.exit_code == 1 for s in failed):
        return 1
    if failed and len(failed) == len(summaries) and not any(s.outputs for s in failed):
        codes = {s.exit_code for s in failed}
        return min(codes) if len(codes) == 1 else 4
    return 3 if failed or any(s.status == "partial" for s in summaries) else 0


def _report(summaries: Sequence[Summary], code: int, args: argparse.Namespace) -> None:
    if args.json:
        names = {0: "ok", 3: "partial", 130: "interrupted", 143: "interrupted"}
        report: dict[str, Any] = {
            "status": names.get(code, "failed"),
            "exit_code": code,
            "inputs": [s.as_dict() for s in summaries],
        }
        sys.stdout.write(json.dumps(report, ensure_ascii=False, indent=1, allow_nan=False) + "\n")
        return
    if not args.quiet:
        _table(summaries)
    for summary in summaries:
        if summary.outputs:
            sys.stdout.write(f"{summary.folder}\n")


def _table(summaries: Sequence[Summary]) -> None:
    from rich.console import Console
    from rich.table import Table

    wide = None if sys.stderr.isatty() else 120
    console = Console(stderr=True, width=wide, no_color=bool(os.environ.get("NO_COLOR")) or None)
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("input", overflow="fold")
    for head in ("status", "frames", "people", "ids", "filled", "fps", "x real time", "warnings"):
        table.add_column(head, justify="left" if head == "status" else "right")
    for s in summaries:
        table.add_row(
            Path(s.input).name,
            s.status,
            str(s.frames_reported),
            str(s.people),
            str(s.ids),
            "-" if s.filled_pct is None else f"{s.filled_pct:.0f} %",
            "-" if s.fps is None else f"{s.fps:.1f}",
            "-" if s.x_real_time is None else f"{s.x_real_time:.2f}",
            str(len(s.warnings)),
        )
    console.print(table)


def _to_stdout(args: argparse.Namespace, config: Config) -> int:
    """Write one JSON object for each frame of a single source to stdout, as it comes."""
    if config.filter.smooth not in ("auto", "none"):
        raise UsageError("--smooth needs the whole recording; with -o - take --filter instead")
    if len(args.inputs) != 1:
        raise UsageError("-o - takes exactly one input")
    with contextlib.ExitStack() as stack:
        source = stack.enter_context(open_source(args.inputs[0], config))
        streams = stack.enter_context(streaming(args))
        # stdout has the results; a file needs no progress beside them, a service its health
        style = "plain" if source.live and args.progress == "auto" and not args.quiet else "none"
        progress = stack.enter_context(make_progress(style, quiet=args.quiet))
        progress.start(source.info.name, 1, 1)
        still = args.still or source.info.stills
        engine = _loaded(source, for_live(config) if source.live else config, still=still)
        follow = Hindsight(engine.follower(still=source.info.stills), wait=not source.live)
        tally = Tally()

        def give(results: Sequence[FrameResult]) -> None:
            for result in results:
                tally.add(result, recalled=False)
                for stream in streams:
                    stream.put(result)
                sys.stdout.write(json.dumps(frame_object(result), allow_nan=False) + "\n")
                sys.stdout.flush()
                progress.step(result, tally, source)

        stack.callback(lambda: give(follow.rest()))
        for frame in source:
            if tally.captured_s is None:
                tally.captured_s = frame.time_s if source.live else 0.0
            frame = dataclasses.replace(frame, time_s=frame.time_s - tally.captured_s)
            if args.seconds and frame.time_s >= args.seconds:
                break
            give(follow(engine.detector([frame])[0]))
        for warning in source.warnings:
            log.warning("%s", warning)
        return 3 if source.partial else 0
