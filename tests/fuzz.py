"""Mutated inputs for every reader: ``python -m tests.fuzz --count 1000`` prints what happened.

A reader may read a mutant or refuse it by one of our errors, in one line and in time. Anything else
is a fault; a crash of a native library ends the program, and the last line tells where.
"""

from __future__ import annotations

import argparse
import collections
import importlib.util
import json
import logging
import sys
import tempfile
import time
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from manypose.errors import ManyposeError
from tests.fuzz_inputs import INPUTS
from tests.fuzz_results import RESULTS

HUNG_S = 20.0
_NEEDS = {
    "coco results": "pycocotools", "coco labels": "pycocotools", "openvino": "openvino",
    "checkpoint": "torch", "pack": "torch",
}  # fmt: skip
READERS = {
    name: reader
    for name, reader in {**INPUTS, **RESULTS}.items()
    if name not in _NEEDS or importlib.util.find_spec(_NEEDS[name]) is not None
}


def mutant(data: bytes, rng: np.random.Generator) -> bytes:
    """Return data cut short, with bytes changed, a stretch repeated, or numbers made extreme."""
    kind = int(rng.integers(5))
    if kind == 0:
        return data[: int(rng.integers(len(data)))]
    out = bytearray(data)
    # a text stays one, or hardly a mutant would come further than the first check
    some = sorted(set(data)) if data.isascii() else range(256)
    for _ in range(int(rng.choice([1, 3, 20]))):
        out[int(rng.integers(len(out)))] = int(rng.choice(some))
    at = int(rng.integers(len(out)))
    if kind == 2:
        out[at : at + 50] = bytes(rng.choice(some, 50).tolist())
    elif kind == 3:
        out[at:at] = out[at : at + int(rng.integers(1, 400))]
    elif kind == 4:
        extreme = (b"\xff" * 4, b"\x00" * 4, b"\x7f\xff\xff\xff", b"1e999", b"nan", b"-1", b"[[[[")
        some = extreme[int(rng.integers(len(extreme)))]
        out[at : at + len(some)] = some
    return bytes(out)


_VALUES: tuple[Any, ...] = (
    None,
    [],
    {},
    "x",
    -1,
    0,
    1e308,
    10**20,
    True,
    [[1]],
    "../../x",
    float("nan"),
)


def well_formed(data: bytes, rng: np.random.Generator) -> bytes:
    """Return JSON, or a line of JSON lines, that is whole but says something else somewhere."""
    lines = data.split(b"\n") if data.count(b"}\n{") else [data]
    at = int(rng.integers(len(lines)))
    try:
        document = json.loads(lines[at])
    except ValueError:
        return mutant(data, rng)
    places = list(_places(document))
    if not places:
        return mutant(data, rng)
    holder, key = places[int(rng.integers(len(places)))]
    if rng.integers(4) == 0:
        del holder[key]
    else:
        holder[key] = _VALUES[int(rng.integers(len(_VALUES)))]
    lines[at] = json.dumps(document).encode()
    return b"\n".join(lines)


def _places(node: Any) -> Iterator[tuple[Any, Any]]:
    """Yield every (holder, key) of a document; of long lists the first few."""
    if isinstance(node, dict | list):
        keys = list(node) if isinstance(node, dict) else range(min(len(node), 3))
        for key in keys:
            yield node, key
            yield from _places(node[key])


def tried(name: str, count: int, seed: int) -> dict[str, Any]:
    """Return how often a reader read, refused and failed, and the slowest of its mutants."""
    file, write, read = READERS[name]
    rng = np.random.default_rng([seed, *name.encode()])
    ends: collections.Counter[str] = collections.Counter()
    faults: list[str] = []
    slowest = 0.0
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / file
        write(path)
        read(path)
        whole = path.read_bytes()
        for k in range(count):
            change = well_formed if whole[:1] in b"[{" and k % 2 else mutant
            path.write_bytes(change(whole, rng))
            start = time.monotonic()
            try:
                read(path)
                ends["read"] += 1
            except ManyposeError as error:
                ends["refused"] += 1
                if "\n" in str(error):
                    faults.append(f"mutant {k}: more than a line: {error}")
            except Exception as error:  # noqa: BLE001 - what this program looks for
                faults.append(f"mutant {k}: {type(error).__name__}: {error}")
            took = time.monotonic() - start
            slowest = max(slowest, took)
            if took > HUNG_S:
                faults.append(f"mutant {k}: {took:.0f} s")
    return {**ends, "faults": faults, "slowest_s": round(slowest, 2)}


def main() -> int:
    """Try every reader named; returns 1 when there was a fault."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("readers", nargs="*", help=f"of {', '.join(READERS)} (default: all)")
    parser.add_argument("--count", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    warnings.simplefilter("error")
    logging.disable()
    report = {}
    for name in args.readers or READERS:
        sys.stderr.write(f"{name} ...\n")
        sys.stderr.flush()
        report[name] = tried(name, args.count, args.seed)
    if args.json:
        sys.stdout.write(json.dumps(report) + "\n")
    else:
        for name, r in report.items():
            line = (
                f"{name:<12} read {r.get('read', 0):5} refused {r.get('refused', 0):5} "
                f"faults {len(r['faults']):3} slowest {r['slowest_s']:.2f} s\n"
            )
            sys.stdout.write(line + "".join(f"  {f}\n" for f in r["faults"][:5]))
    return 1 if any(r["faults"] for r in report.values()) else 0


if __name__ == "__main__":
    sys.exit(main())
