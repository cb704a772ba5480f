"""``manypose train``: the steps from photos to weights, one word each."""

from __future__ import annotations

import argparse
import importlib
import importlib.util
import logging
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING

from manypose.errors import UsageError
from manypose.models.train import checkpoints, packs, readers
from manypose.pose.portraits import EVERYBODY, LARGEST

if TYPE_CHECKING:
    from manypose.models.train.scores import Find, Predict

_LOG = logging.getLogger(__name__)

# Steps with a module of their own: add_arguments(parser), run(args) -> exit code, one line of help.
_MODULES: dict[str, tuple[str, str]] = {
    "stage1": ("manypose.models.train.stage1", "train the network that sees the people"),
    "portraits": (
        "manypose.models.train.portraits.command",
        "train the network that looks at each person",
    ),
    "stage2": ("manypose.models.train.stage2", "train the lifting to 3D"),
    "render": ("manypose.models.train.synth.command", "render people with exact truth"),
    "prepare": ("manypose.models.train.prepare", "make pictures beforehand, for slow processors"),
    "release": ("manypose.models.train.release", "export, score and describe weights for users"),
    "average": ("manypose.models.train.average", "the mean of weights of several runs"),
    "faults": ("manypose.models.train.faults", "measure the errors that stage2 learns to bear"),
    "relabel": ("manypose.models.train.relabel", "label photos with the current network"),
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the steps and their options."""
    steps = parser.add_subparsers(dest="step", metavar="STEP", required=True)
    for name, (module, text) in _MODULES.items():
        if importlib.util.find_spec(module) is not None:
            step = steps.add_parser(name, help=text, description=text, allow_abbrev=False)
            importlib.import_module(module).add_arguments(step)
            step.set_defaults(run_step=importlib.import_module(module).run)
    pack = steps.add_parser("pack", help="gather sources of photos into parts under 60 MB",
                            allow_abbrev=False)  # fmt: skip
    pack.add_argument("sources", nargs="+", metavar="ADDRESS", help="as for stage1 --data")
    pack.add_argument("--out", type=Path, required=True, help="folder of the pack")
    pack.add_argument("--side", type=int, help="longer side of the pictures at most, px")
    pack.set_defaults(run_step=_pack)
    join = steps.add_parser("join", help="join weights that came in parts", allow_abbrev=False)
    join.add_argument("parts", type=Path, help="ema.pt.parts.json, or its folder")
    join.add_argument("--out", type=Path, help="file to write (default: beside the parts)")
    join.set_defaults(run_step=_join)
    score = steps.add_parser("score", help="score weights on photos", allow_abbrev=False)
    score.add_argument("weights", type=Path, help="ema.pt of a run, or a name of manypose models")
    score.add_argument("--val", nargs="+", metavar="ADDRESS", required=True, help="photos")
    score.add_argument("--size", help="input size (default 512x320, of a name its own)")
    score.add_argument("--precision", default="auto", help="of a name: auto, fp32, int8")
    score.add_argument(
        "--careful", action="store_true", help="of a name: the three sizes of run --careful"
    )
    score.add_argument(
        "--second-looks", action="store_true",
        help="of a name: as manypose run, which looks twice at people near and far",
    )  # fmt: skip
    score.add_argument(
        "--portraits", action="store_true",
        help="of a name: the joints of each person are read again, as by run --careful; with "
        "--second-looks of the four largest, as in videos",
    )  # fmt: skip
    score.add_argument(
        "--photographs", action="store_true",
        help="of a name: as manypose run looks at photographs, in three sizes and their mirrors",
    )  # fmt: skip
    score.add_argument("--sure", type=float, help="score from which people count (default 0.3)")
    score.add_argument("--device", default="auto", help="auto, cpu, cuda or cuda:N")
    score.add_argument("--threads", type=int, help="CPU threads (default: all cores)")
    score.add_argument("--sheet", type=Path, help="write a sheet of the people found (.jpg)")
    score.set_defaults(run_step=_score)
    for step in steps.choices.values():
        _for_every_command(step)


def _for_every_command(step: argparse.ArgumentParser) -> None:
    """Let the options of every command stand behind the step as well."""
    hidden = argparse.SUPPRESS
    step.add_argument("-q", "--quiet", action="store_true", default=hidden, help=hidden)
    step.add_argument("-v", "--verbose", action="count", default=hidden, help=hidden)
    step.add_argument("--no-color", action="store_true", default=hidden, help=hidden)


def run(args: argparse.Namespace) -> int:
    """Run the chosen step; returns its exit code."""
    code: int = args.run_step(args)
    return code


def _pack(args: argparse.Namespace) -> int:
    if args.side is not None and args.side < 64:
        raise UsageError(f"--side {args.side}: pictures need at least 64 px")
    found = chain.from_iterable(readers.open_source(a) for a in args.sources)
    if args.side is not None:
        found = (packs.decoded(p, args.side) for p in found)  # type: ignore[assignment]
    count = packs.write_pack(found, args.out)
    _LOG.info("%d photos packed in %s", count, args.out)
    return 0


def _join(args: argparse.Namespace) -> int:
    path, digest = checkpoints.join(args.parts, args.out)
    _LOG.info("%s  %s", digest, path)
    return 0


def _score(args: argparse.Namespace) -> int:
    from manypose.models.train import scores, sheets, stage1
    from manypose.pose.grouping import GroupingConfig

    find = None
    if args.weights.suffix in (".pt", ".npz"):
        if args.careful or args.second_looks or args.portraits or args.photographs:
            raise UsageError(
                "--careful, --second-looks, --portraits and --photographs are for networks by "
                "name: give one of manypose models list"
            )
        args.size = args.size or "512x320"
        net, about, photos, size, device = stage1.to_score(args)
        predict = scores.of_network(net, *size, device)
        title = f"{args.weights}, {about.get('images', '?')} images seen"
    else:
        predict, size, title, find = _of_name(args)
        photos = [p for a in args.val for p in readers.open_source(a)]
    sure = scores.SURE if args.sure is None else args.sure
    found = scores.evaluate(photos, predict, sure=sure, find=find)
    top = scores.ceiling(photos, *size)
    _LOG.info("%s, %d photos at %dx%d: %s", title, len(photos), *size, scores.line(found, top))
    if args.sheet:
        people = list(scores.decode(photos[:24], predict, GroupingConfig(), find=find))
        sheets.people_sheet(args.sheet, people)
    return 0


def _of_name(
    args: argparse.Namespace,
) -> tuple[Predict, tuple[int, int], str, Find | None]:
    """Return the maps of a network as users run it, its input size, what it is, who finds people.

    Nobody but the grouping of these maps, if no further looks are asked for.
    """
    from manypose.models import backends, front_end
    from manypose.models.preprocess import size_named
    from manypose.models.train import scores

    args.careful |= args.photographs
    args.portraits |= args.photographs
    name, precision = str(args.weights), args.precision
    size = size_named(args.size) if args.size else None
    if args.careful and (size or args.second_looks):
        raise UsageError("--careful has looks of its own: leave --size and --second-looks away")
    if args.careful or args.second_looks or args.portraits:
        program = front_end.load_front_end(
            name, "auto", args.device, args.threads, precision, size=size, careful=args.careful,
            close_ups=args.second_looks or args.careful, long_shots=args.second_looks,
            portraits=(LARGEST if args.second_looks else EVERYBODY) * args.portraits,
            mirror=args.photographs,
        )  # fmt: skip
        network, find = program.network, scores.found_by(program)
    else:
        network = backends.load_network(name, "auto", args.device, args.threads, precision, 1, size)
        find = None
    return scores.of_program(network), network.info.input_size, network.info.line(), find
