"""OpenSim's own view of a file, for a Python that has opensim: ``python oracle_opensim.py FILE``.

Prints {"names", "times", "rows", "meta"}: columns as OpenSim names them, NaN as null.
"""

import json
import math
import sys

import opensim


def main():
    """Print what OpenSim reads."""
    path = sys.argv[1]
    opensim.Logger.setLevelString("Off")
    if path.endswith(".trc"):
        table = opensim.TimeSeriesTableVec3(path)
    else:
        table = opensim.TimeSeriesTable(path)
    rows = []
    for i in range(table.getNumRows()):
        row = table.getRowAtIndex(i)
        cells = [row[k] for k in range(row.size())]
        values = [float(c[j]) for c in cells for j in range(3)] if path.endswith(".trc") else cells
        rows.append([None if math.isnan(v) else float(v) for v in values])
    meta = {k: table.getTableMetaDataString(k) for k in table.getTableMetaDataKeys()}
    told = {
        "names": list(table.getColumnLabels()), "times": list(table.getIndependentColumn()),
        "rows": rows, "meta": meta,
    }  # fmt: skip
    sys.stdout.write(f"\nORACLE {json.dumps(told)}\n")


main()
