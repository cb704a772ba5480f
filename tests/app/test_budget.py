"""What a run may take: memory and the work to begin; a busy machine keeps these limits too."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from made_clips import write_clip

import manypose
from manypose.models import weights

pytest.importorskip("onnxruntime")

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        not (weights.SHIPPED / "light_int8.onnx").exists(), reason="no shipped weights"
    ),
    pytest.mark.skipif(not sys.platform.startswith("linux"), reason="/proc"),
]
_ENGINE = ["--backend", "onnx", "--precision", "int8", "--threads", "2"]
# VmHWM is this program's own; ru_maxrss begins with what the process that started it had.
_MEMORY = """
import sys
from manypose.app.main import main
code = main(sys.argv[1:])
with open("/proc/self/status") as status:
    print(next(line for line in status if line.startswith("VmHWM")).split()[1], file=sys.stderr)
sys.exit(code)
"""


def test_full_hd_takes_less_than_600_mb(tmp_path: Path) -> None:
    clip = write_clip(tmp_path / "hd.mp4", 16, size=(1920, 1080))
    words = ["run", str(clip), "-o", str(tmp_path / "out"), *_ENGINE]
    done = subprocess.run(
        [sys.executable, "-c", _MEMORY, *words], capture_output=True, text=True, check=True
    )
    assert int(done.stderr.split()[-1]) / 1024 < 600


def test_the_first_skeleton_comes_after_little_work(tmp_path: Path) -> None:
    clip = Path(manypose.__file__).parent / "app" / "sample.mp4"
    if not clip.exists():
        pytest.skip("no sample clip")
    words = ["live", str(clip), "--loop", "--no-gui", "--duration", "60", *_ENGINE]
    command = [sys.executable, "-m", "manypose.app.main", *words]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    ) as program:
        assert program.stdout is not None
        try:
            for line in program.stdout:
                if json.loads(line)["persons"]:
                    break
            fields = Path(f"/proc/{program.pid}/stat").read_text().rpartition(")")[2].split()
        finally:
            program.kill()
    # of all its threads; on an idle machine the time that passes is no longer than that
    cpu_s = (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
    assert cpu_s < 6
