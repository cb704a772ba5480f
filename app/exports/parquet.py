"""A Parquet table in the long form of pose.csv: one row for every joint of every person."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from manypose.app.exports import Options
from manypose.app.formats.part import part_of
from manypose.app.formats.reading import Run
from manypose.errors import DeviceError
from manypose.pose.joints import JOINTS, SHOWN_BY, STATE_NAMES


def export(run: Run, folder: Path, options: Options) -> list[Path]:
    """Write pose.parquet, the columns of pose.csv, and return it.

    Raises:
        DeviceError: the package pyarrow is not installed.
    """
    try:
        import pyarrow as pa
        from pyarrow import parquet
    except ImportError as e:
        raise DeviceError("Parquet needs pyarrow: pip install 'manypose[parquet]'") from e
    rows = np.arange(len(run.id))
    if options.ids:
        rows = rows[np.isin(run.id, options.ids)]
    n, joints = len(rows), len(JOINTS)
    shown = np.array(SHOWN_BY)
    flat = np.where(shown[None, :, None] >= 0, run.kp2d[rows][:, shown], np.nan).reshape(-1, 3)
    place = run.kp3d[rows].reshape(-1, 3)
    of_frame = run.row_frame[rows]
    columns = {
        "frame": np.repeat(run.frame[of_frame], joints),
        "t": np.repeat(run.t[of_frame], joints),
        "id": np.repeat(run.id[rows], joints),
        "joint": pa.array(np.tile(np.array(JOINTS), n).tolist(), pa.string()),
        "x_px": flat[:, 0],
        "y_px": flat[:, 1],
        "conf": flat[:, 2],
        "x_m": place[:, 0],
        "y_m": place[:, 1],
        "z_m": place[:, 2],
        "state": pa.array([STATE_NAMES[s] for s in run.state[rows].ravel()], pa.string()),
    }
    path = folder / "pose.parquet"
    folder.mkdir(parents=True, exist_ok=True)
    parquet.write_table(pa.table(columns), str(part_of(path)))
    part_of(path).replace(path)
    return [path]
