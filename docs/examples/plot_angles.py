"""Plot joint angles of a run over time. Needs numpy and matplotlib.

    python docs/examples/plot_angles.py out/clip/person_1.mot angles.png r_knee_flexion

Run `manypose export out/clip --to mot` first.
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
    source, out = map(Path, sys.argv[1:3])
    wanted = sys.argv[3:] or ["l_knee_flexion", "r_knee_flexion"]
    names, table = read_mot(source)
    _, axes = plt.subplots(figsize=(8, 3.2), layout="constrained")
    for name in wanted:
        axes.plot(table[:, 0], table[:, names.index(name)], label=name.replace("_", " "))
    axes.set_xlabel("time, s")
    axes.set_ylabel("degrees")
    axes.set_title(f"{source.parent.name}, {source.stem.replace('_', ' ')}", loc="left")
    axes.legend(frameon=False)
    axes.spines[["top", "right"]].set_visible(False)
    plt.savefig(out, dpi=110)


main()
