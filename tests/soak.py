"""Hours at work: ``python -m tests.soak`` fails when memory grows or a record is lost.

live: the program with the shipped network on an endless clip of 30 pictures a second, for so many
minutes, results on stdout. recorded: so many minutes of video at full speed into every native file;
what a network would find in it is generated, so that an hour of video needs less than an hour.
Memory is that of the program's process without files that are mapped (RssAnon of Linux), its slope
that after the first quarter. A recording is smoothed at its end, which takes some memory, however
long it is.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import threading
import time
from fractions import Fraction
from pathlib import Path
from typing import IO, Any

import numpy as np

ROOT = Path(__file__).resolve().parents[1]
SLOPE_MAX_MB_H = 5.0
SMOOTHING_MAX_MB = 80.0  # whatever the length
PEOPLE = 2
FPS = 30
Figures = dict[str, Any]


class Memory:
    """Memory of another process at times."""

    def __init__(self, pid: int) -> None:
        self._status = Path(f"/proc/{pid}/status")
        self._marks: list[tuple[float, float]] = []

    def mark(self) -> None:
        """Note the memory in use now."""
        for line in self._status.read_text("ascii").splitlines():
            if line.startswith("RssAnon:"):
                self._marks.append((time.monotonic(), int(line.split()[1]) / 1024))

    def figures(self) -> Figures:
        """Return the slope, MB/h, the memory at the ends of what it is of, and the most, MB.

        The slope is the median of those between any two marks (Theil and Sen), so that the last
        minutes of a recording, when it is smoothed, count for no more than they last.
        """
        from scipy.stats import theilslopes

        late = np.array(self._marks[len(self._marks) // 4 :])
        few = late[:: len(late) // 1000 + 1]
        slope = theilslopes(few[:, 1], few[:, 0] / 3600)[0] if len(few) > 2 else np.nan
        return {
            "slope_mb_h": round(float(slope), 2),
            "memory_mb": [round(float(late[0, 1]), 1), round(float(late[-1, 1]), 1)],
            "peak_mb": round(float(late[:, 1].max()), 1),
        }


class Lines:
    """Counts the lines of a stream and keeps the last that is JSON of this schema."""

    def __init__(self, stream: IO[str], schema: str) -> None:
        self.count = 0
        self.last: Figures = {}
        self._stream, self._schema = stream, schema
        self._thread = threading.Thread(target=self._work, daemon=True)
        self._thread.start()

    def _work(self) -> None:
        for line in self._stream:
            self.count += 1
            if self._schema in line:
                self.last = json.loads(line)
            elif not line.startswith("{"):
                sys.stderr.write(line)

    def end(self) -> None:
        """Wait for the end of the stream."""
        self._thread.join()


def watched(words: list[str], every_s: float) -> tuple[int, Memory, Lines, Lines]:
    """Run the program to its end; return exit code, memory, stdout and stderr."""
    program = subprocess.Popen(
        [sys.executable, *words], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert program.stdout is not None
    assert program.stderr is not None
    out, err = Lines(program.stdout, '"persons"'), Lines(program.stderr, "manypose-health/1")
    memory = Memory(program.pid)
    while program.poll() is None:
        memory.mark()
        time.sleep(every_s)
    out.end()
    err.end()
    return program.returncode, memory, out, err


def live(minutes: float) -> Figures:
    """Return what the live view without a window did."""
    clip = str(ROOT / "app" / "sample.mp4")
    seconds = 60 * minutes
    words = ["live", clip, "--loop", "--no-gui", "--format", "jsonl", "--duration", str(seconds)]
    code, memory, out, err = watched(["-m", "manypose.app.main", *words], seconds / 3600)
    if code or not err.last:
        return {"exit_code": code, "well": False}
    (source,) = err.last["sources"]
    lost = sum(n for reason, n in source["dropped"].items() if reason != "paint")
    under_way = source["read"] - source["processed"] - lost
    figures = {
        "exit_code": code, "read": source["read"], "processed": source["processed"],
        "dropped": source["dropped"], "under_way": under_way, "lines": out.count,
        "up_s": err.last["uptime_s"], **memory.figures(),
    }  # fmt: skip
    # the last line of health is up to 10 s older than the last result
    shown = source["processed"] - source["dropped"].get("paint", 0)
    whole = code == 0 and 0 <= under_way <= 2 and shown - 2 <= out.count <= shown + 11 * FPS
    return {**figures, "well": whole and figures["slope_mb_h"] < SLOPE_MAX_MB_H}


def recorded(minutes: float) -> Figures:
    """Return what a run over a long video did."""
    with tempfile.TemporaryDirectory() as folder:
        clip, frames = Path(folder) / "long.mkv", round(60 * minutes * FPS)
        write_long(clip, frames)
        words = ["run", str(clip), "-o", f"{folder}/out", "--json", "--progress", "none"]
        began = time.monotonic()
        code, memory, _, _ = watched([__file__, "--program", *words], 1.0)
        seconds = time.monotonic() - began
        if code:
            return {"exit_code": code, "well": False}
        run = Path(folder) / "out" / "long"
        summary = json.loads((run / "meta.json").read_text("utf-8"))["summary"]
        with np.load(run / "pose.npz", allow_pickle=False) as stored:
            rows, in_npz = len(stored["id"]), len(stored["t"])
        with (run / "pose.jsonl").open() as lines, (run / "pose.csv").open() as table:
            in_jsonl = sum(1 for _ in lines)
            in_csv = sum(1 for _ in table) - 1
    spent = summary["frames_reported"] + summary["undecodable"] + sum(summary["dropped"].values())
    figures = {
        "exit_code": code, "frames": frames, "read": summary["frames_read"],
        "reported": summary["frames_reported"], "lines": in_jsonl, "rows": rows,
        "ids": summary["ids"], "seconds": round(seconds), **memory.figures(),
    }  # fmt: skip
    whole = code == 0 and frames == summary["frames_read"] == spent == in_npz == in_jsonl
    whole = whole and in_csv == 26 * rows and rows > (PEOPLE - 1) * frames
    calm = figures["slope_mb_h"] < SLOPE_MAX_MB_H
    at_the_end = figures["peak_mb"] - figures["memory_mb"][0]
    return {**figures, "well": whole and calm and at_the_end < SMOOTHING_MAX_MB}


def write_long(path: Path, frames: int) -> None:
    """Write a clip of a second's pictures again and again, encoded once."""
    import av
    import troupe

    with av.open(str(path), "w") as file:
        stream = file.add_stream("libx264", rate=FPS)
        stream.width, stream.height, stream.pix_fmt = troupe.WIDTH, troupe.HEIGHT, "yuv420p"
        stream.options = {"preset": "ultrafast", "tune": "zerolatency", "g": str(FPS)}
        stream.codec_context.time_base = Fraction(1, FPS)
        packets = []
        for i in range(FPS):
            image = np.full((troupe.HEIGHT, troupe.WIDTH, 3), 60, np.uint8)
            x = 10 * min(i, FPS - i)  # there and back: a jump would be taken for a cut
            image[100:140, x : x + 60] = 200
            frame = av.VideoFrame.from_ndarray(image, format="bgr24")
            frame.pts = i
            packets += stream.encode(frame)
        coded = [(bytes(p), p.is_keyframe) for p in packets]
        for i in range(frames):
            data, key = coded[i % FPS]
            packet = av.Packet(data)
            packet.stream, packet.time_base = stream, Fraction(1, FPS)
            packet.pts = packet.dts = i
            packet.is_keyframe = key
            file.mux(packet)


def program(words: list[str]) -> int:
    """Run the program with generated people in place of the network."""
    import troupe

    from manypose.app import pipeline
    from manypose.app.main import main

    pipeline.load_engine = lambda *_, **__: troupe.engine(PEOPLE)
    return main(words)


def main() -> int:
    """Run what is named; returns 1 when memory grew or a record was lost."""
    sys.path.insert(0, str(ROOT / "tests" / "app"))  # troupe
    if sys.argv[1:2] == ["--program"]:
        return program(sys.argv[2:])
    parser = argparse.ArgumentParser(description=__doc__)
    kinds = {"live": live, "recorded": recorded}
    parser.add_argument("kinds", nargs="*", metavar="KIND", help="live, recorded (default: both)")
    parser.add_argument("--minutes", type=float, default=60.0)
    args = parser.parse_args()
    code = 0
    for kind in args.kinds or kinds:
        figures = kinds[kind](args.minutes)
        sys.stdout.write(f"{kind}: {json.dumps(figures)}\n")
        sys.stdout.flush()
        code |= not figures["well"]
    return code


if __name__ == "__main__":
    sys.exit(main())
