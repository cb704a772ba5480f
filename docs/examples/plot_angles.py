"""Plot joint angles of a run over time. Needs numpy and matplotlib.

    python docs/examples/plot_angles.py out/clip/person_1.mot angles.png r_knee_flexion

Run `manypose export out/clip --to mot` first. Several files, as of a raw and a filtered run, are
plotted over each other. What a file holds over a gap is left out.
"""

import sys
from pathlib import Path

import matplotlib
import numpy as np

matplotlib.use("Agg")
import matplotlib.pyplot as plt


def read_mot(path: Path) -> tuple[list[str], np.ndarray]:
    """Return the names of the columns and the table (frames, columns); the first is time, s."""
    head, _, table = path.read_text("utf-8").partition("endheader\n")
    assert "inDegrees=yes" in head
    names, *rows = (line.split("\t") for line in table.splitlines())
    return names, np.array(rows, float)


def main() -> None:
    """Plot the columns named (default: the knees)."""
    sources = [Path(word) for word in sys.argv[1:] if word.endswith(".mot")]
    out, *wanted = (word for word in sys.argv[1:] if not word.endswith(".mot"))
    _, axes = plt.subplots(figsize=(8, 3.2), layout="constrained")
    for source in sources:
        names, table = read_mot(source)
        held = np.flatnonzero((np.diff(table[:, 1:], axis=0) == 0).all(1)) + 1
        table[held, 1:] = np.nan
        for name in wanted or ["l_knee_flexion", "r_knee_flexion"]:
            label = name.replace("_", " ") + (f", {source.parent.name}" if sources[1:] else "")
            axes.plot(table[:, 0], table[:, names.index(name)], label=label)
    axes.set_xlabel("time, s")
    axes.set_ylabel("degrees")
    where = "" if sources[1:] else f"{sources[0].parent.name}, "
    axes.set_title(where + sources[0].stem.replace("_", " "), loc="left")
    axes.legend(frameon=False)
    axes.spines[["top", "right"]].set_visible(False)
    plt.savefig(out, dpi=110)


main()
