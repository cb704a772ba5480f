"""What `manypose bench backbones` found, as CSV history, Markdown table and plot."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from manypose.errors import OutputError, UsageError

BEGIN, END = "<!-- backbones: begin -->", "<!-- backbones: end -->"


@dataclass(frozen=True, slots=True)
class Row:
    """One measurement; ms is the median of `rounds` calls, ratios are comparator / this one.

    clock: "cpu" is the process's CPU time, "wall" the time that passed. activations and traffic in
    millions of numbers, memory in MB of live tensors (`costs.peak_bytes`).
    """

    date: str
    machine: str
    device: str
    torch: str
    threads: int
    clock: str
    size: str
    batch: int
    engine: str
    network: str
    ms: float
    ms_p10: float
    ms_p90: float
    rounds: int
    to_layer3: float | None
    to_res5a: float | None
    to_whole: float | None
    parameters_m: float
    gmacs: float
    activations_m: float
    traffic_m: float
    inference_mb: float
    training_mb: float


def _cells(rows: Sequence[Row]) -> Iterator[tuple[Row, list[Row]]]:
    """Yield the rows of one device, size and batch together, with the first of them."""
    groups: dict[tuple[Any, ...], list[Row]] = {}
    for r in rows:
        groups.setdefault((r.device, r.threads, r.clock, r.size, r.batch), []).append(r)
    for group in groups.values():
        yield group[0], group


def _threads(row: Row) -> str:
    return f"{row.threads} thread{'s' if row.threads > 1 else ''}"


def table(rows: Sequence[Row]) -> str:
    """Return the rows as Markdown: one table per size and batch, a line per network."""
    out = []
    for first, group in _cells(rows):
        engines = list(dict.fromkeys(r.engine for r in group))
        by = {(r.network, r.engine): r for r in group}
        where = first.machine if first.device == "cpu" else first.device
        out.append(
            f"{first.size}, batch {first.batch}, {where}, {_threads(first)}, milliseconds of "
            f"{'CPU' if first.clock == 'cpu' else 'wall'} time, median of {first.rounds}, "
            f"{first.date}. In brackets: times as fast as ResNet-50 to layer 3 / to res5a (a whole "
            "network: as the whole).\n"
        )
        head = ["network", "M params", "GMAC", "M activations", "M traffic", "MB inference",
                "MB training", *engines]  # fmt: skip
        out.append("| " + " | ".join(head) + " |")
        out.append("|" + " --- |" * len(head))
        for name in dict.fromkeys(r.network for r in group):
            r = next(by[name, e] for e in engines if (name, e) in by)
            cells = [
                name, f"{r.parameters_m:.2f}", f"{r.gmacs:.2f}", f"{r.activations_m:.1f}",
                f"{r.traffic_m:.1f}", f"{r.inference_mb:.0f}", f"{r.training_mb:.0f}",
            ]  # fmt: skip
            for e in engines:
                one = by[name, e]
                ratios = [
                    f"{v:.2f}" for v in (one.to_layer3, one.to_res5a, one.to_whole) if v is not None
                ]
                cells.append(f"{one.ms:.1f}" + (f" ({' / '.join(ratios)})" if ratios else ""))
            out.append("| " + " | ".join(cells) + " |")
        out.append("")
    return "\n".join(out)


def markers(path: Path) -> tuple[str, str]:
    """Return what stands before and behind the table of a file.

    Raises:
        UsageError: the file or its markers are missing.
    """
    text = path.read_text("utf-8") if path.is_file() else ""
    if BEGIN not in text or END not in text.partition(BEGIN)[2]:
        raise UsageError(f"{path}: write the lines {BEGIN} and {END} where the table belongs")
    before, _, rest = text.partition(BEGIN)
    return before, rest.partition(END)[2]


def renew_table(path: Path, rows: Sequence[Row]) -> None:
    """Put the rows' table between the markers of a Markdown file."""
    before, behind = markers(path)
    _whole(path, f"{before}{BEGIN}\n{table(rows)}{END}{behind}")


def write_csv(path: Path, rows: Sequence[Row]) -> None:
    """Add the rows to a CSV file, which is written anew as a whole.

    Raises:
        UsageError: the file holds something else.
    """
    head = [f.name for f in fields(Row)]
    text = io.StringIO()
    if path.is_file():
        old = path.read_text("utf-8")
        if old.partition("\n")[0].strip() != ",".join(head):
            raise UsageError(f"{path}: no history of this benchmark; name another file")
        text.write(old)
    writer = csv.DictWriter(text, head, lineterminator="\n")
    if not text.tell():
        writer.writeheader()
    writer.writerows(asdict(r) for r in rows)
    _whole(path, text.getvalue())


def _whole(path: Path, text: str) -> None:
    part = path.with_name(path.name + ".part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        part.write_text(text, "utf-8")
        part.replace(path)
    except OSError as e:
        raise OutputError(f"{path}: cannot be written ({e.strerror})") from e


def plot(path: Path, rows: Sequence[Row]) -> None:
    """Draw how many times faster than ResNet-50 to res5a (or whole) each network is."""
    import matplotlib as mpl

    mpl.use("agg")
    from matplotlib import pyplot as plt

    cells = list(_cells(rows))
    figure, axes = plt.subplots(
        1, len(cells), figsize=(1 + 5.5 * len(cells), 6), squeeze=False, layout="constrained"
    )
    for axis, (first, group) in zip(axes[0], cells):
        engines = list(dict.fromkeys(r.engine for r in group))
        names = list(dict.fromkeys(r.network for r in group))
        step = 0.8 / len(engines)
        for i, engine in enumerate(engines):
            some = {r.network: r.to_whole or r.to_res5a or 0.0 for r in group if r.engine == engine}
            at = [k + (i - (len(engines) - 1) / 2) * step for k, _ in enumerate(names)]
            axis.barh(at, [some.get(n, 0.0) for n in names], step, label=engine)
        axis.set_yticks(range(len(names)), names)
        axis.invert_yaxis()
        axis.axvline(1, color="black", linewidth=0.8)
        axis.set_title(f"{first.size}, batch {first.batch}, {_threads(first)}")
        axis.set_xlabel("times as fast as ResNet-50 (to res5a; whole: whole)")
    axes[0][0].legend()
    part = path.with_name(path.name + ".part")
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(part, format=path.suffix[1:], dpi=100)
    plt.close(figure)
    part.replace(path)
