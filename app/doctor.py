"""The verb ``doctor``: say what works on this machine and how to mend the rest."""

from __future__ import annotations

import argparse
import importlib.metadata
import importlib.util
import json
import os
import platform
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from pathlib import Path

import manypose
from manypose.errors import ManyposeError

OK, NOTE, WARNING, MISSING = "ok", "note", "warning", "missing"
_MARKS = {OK: "ok     ", NOTE: "note   ", WARNING: "WARNING", MISSING: "MISSING"}


@dataclass(frozen=True, slots=True)
class Check:
    """One thing looked at: ok; note (as it is, no fault); warning; missing (needed to run)."""

    name: str
    status: str
    found: str
    remedy: str = ""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the verb's options."""
    parser.add_argument("--json", action="store_true", help="the checks as JSON on stdout")
    parser.add_argument("--quick", action="store_true", help="leave out codecs, window, inference")


def run(args: argparse.Namespace) -> int:
    """Print every check as it is done; returns 0, with warnings 3, 5 if something needed lacks."""
    from manypose.app import doctor_video, doctor_window

    groups: list[Callable[[], Iterable[Check]]] = [python, distributions, cameras, disk, clock]
    groups += [threads, weights]
    if not args.quick:
        groups += [doctor_video.codecs, doctor_window.window, engines]
    groups.append(settings)
    done: list[Check] = []
    for group in groups:
        for check in group():
            done.append(check)
            if not args.json:
                remedy = f"\n        -> {check.remedy}" if check.remedy else ""
                sys.stdout.write(f"{_MARKS[check.status]} {check.name}: {check.found}{remedy}\n")
                sys.stdout.flush()
    code = exit_code(done)
    if args.json:
        report = {"exit_code": code, "checks": [asdict(c) for c in done]}
        sys.stdout.write(json.dumps(report, indent=1, ensure_ascii=False) + "\n")
    return code


def exit_code(checks: Iterable[Check]) -> int:
    """Return 5 if something needed is missing, else 3 with warnings, else 0."""
    found = {c.status for c in checks}
    return 5 if MISSING in found else 3 if WARNING in found else 0


def python() -> Iterable[Check]:
    """Return the interpreter and the libraries every run needs."""
    yield Check(
        "manypose",
        OK,
        f"{manypose.__version__}, Python {platform.python_version()}, {platform.platform()}",
    )
    for module, name in (("numpy", "numpy"), ("scipy", "scipy"), ("cv2", "opencv"), ("av", "av")):
        try:
            found = __import__(module)
        except ImportError as error:
            yield Check(name, MISSING, str(error), "pip install --force-reinstall manypose")
            continue
        usable = module != "cv2" or hasattr(found, "VideoCapture")
        if usable:
            yield Check(name, OK, str(getattr(found, "__version__", "?")))
        else:
            yield Check(
                name, MISSING, "an empty package, left when one of two was removed",
                "pip install --force-reinstall opencv-python-headless",
            )  # fmt: skip


def installed(prefix: str) -> list[str]:
    """Return "name version" of every installed distribution whose name begins so."""
    found = set()
    for distribution in importlib.metadata.distributions():
        name = distribution.metadata["Name"] or ""
        if name.lower().startswith(prefix):
            found.add(f"{name} {distribution.version}")
    return sorted(found)


def distributions() -> Iterable[Check]:
    """Return whether packages that own the same import name meet."""
    cv2_family = installed("opencv")
    if any(not n.startswith("opencv-python-headless ") for n in cv2_family):
        yield Check(
            "OpenCV packages", WARNING, ", ".join(cv2_family),
            "opencv-python brings a Qt of its own that aborts PyQt5. Run: pip uninstall -y"
            f" {' '.join(n.split()[0] for n in cv2_family)}; pip install opencv-python-headless",
        )  # fmt: skip
    else:
        yield Check("OpenCV packages", OK, ", ".join(cv2_family))
    engines_found = [n for n in installed("onnxruntime") if "extensions" not in n]
    if len(engines_found) > 1:
        yield Check(
            "ONNX Runtime packages", WARNING, ", ".join(engines_found),
            "both own one import name, the GPU goes unused in silence. Run: pip uninstall -y"
            " onnxruntime onnxruntime-gpu; pip install onnxruntime-gpu (or onnxruntime)",
        )  # fmt: skip
    elif engines_found:
        yield Check("ONNX Runtime packages", OK, engines_found[0])


def cameras() -> Iterable[Check]:
    """Return the cameras, by the system's list."""
    from manypose.app.webcam import list_cameras

    known = list_cameras()
    if known is None:
        yield Check("cameras", NOTE, "this system lists them only by opening: --source 0, 1, ...")
    elif not known:
        yield Check("cameras", NOTE, "none; videos and streams work without")
    for camera in known or ():
        if os.access(camera.path, os.R_OK | os.W_OK):
            yield Check("camera", OK, f"{camera.index} = {camera.name} ({camera.path})")
        else:
            yield Check(
                "camera", WARNING, f"{camera.index} = {camera.name}: no permission",
                "sudo usermod -aG video $USER, then log in again",
            )  # fmt: skip


def disk() -> Iterable[Check]:
    """Return the free space where results and temporary files go."""
    for name, folder in (("here", Path.cwd()), ("temporary files", Path(tempfile.gettempdir()))):
        free = shutil.disk_usage(folder).free / 1e9
        enough = free > 1
        yield Check(
            f"disk, {name}",
            OK if enough else WARNING,
            f"{free:.1f} GB free in {folder}",
            "" if enough else "make room: an hour of results takes up to 1 GB, of video 3 GB",
        )


def clock() -> Iterable[Check]:
    """Return the resolution of the clock that frames are stamped with."""
    steps = set()
    for _ in range(200):
        a = b = time.perf_counter_ns()
        while b == a:
            b = time.perf_counter_ns()
        steps.add(b - a)
    step_us = min(steps) / 1e3
    good = step_us < 100
    yield Check("clock", OK if good else WARNING, f"resolution {step_us:.2f} us",
                "" if good else "frame times are coarse; do not trust the lag shown")  # fmt: skip


def threads() -> Iterable[Check]:
    """Return how many processors we may use and what limits them."""
    import cv2

    from manypose.app.sources import threads_lent

    lent, all_of_them = threads_lent(), os.cpu_count() or 1
    limits = [
        f"{k}={os.environ[k]}" for k in ("OMP_NUM_THREADS", "MKL_NUM_THREADS") if k in os.environ
    ]
    text = f"{lent} of {all_of_them} processors; OpenCV {cv2.getNumThreads()}"
    yield Check("threads", OK, text + (f"; {', '.join(limits)}" if limits else ""))


def weights() -> Iterable[Check]:
    """Return the weight files and whether they are what their manifest says."""
    from manypose.models import weights as files

    try:
        rows = files.manifest(files.SHIPPED) + files.manifest(files.user_folder())
    except ManyposeError as error:
        yield Check("weights", MISSING, str(error))
        return
    if not any(row.kind == "stage1" for row in rows):
        yield Check(
            "weights", MISSING, "no network for finding people",
            "reinstall manypose, or train one: manypose train",
        )  # fmt: skip
    for row in rows:
        try:
            files.verify(row)
        except ManyposeError as error:
            yield Check(f"weights {row.name}", MISSING, str(error))
            continue
        yield Check(
            f"weights {row.name}", OK,
            f"{row.path.name}, {row.precision}, sha256 {row.sha256[:12]}, {row.licence}",
        )  # fmt: skip


def engines() -> Iterable[Check]:
    """Run the default network once on every engine installed; compare the results."""
    import numpy as np

    from manypose.app.config import load_config
    from manypose.calib.camera import Camera
    from manypose.models import backends, sessions
    from manypose.models import weights as files
    from manypose.pose.records import Frame

    try:
        names = sessions.installed()
        model = load_config().model.name
        files.find(model)
    except ManyposeError as error:
        yield Check("inference", MISSING, str(error))
        return
    rng = np.random.default_rng(0)
    picture = rng.integers(0, 255, (20, 32, 3), np.uint8).repeat(16, 0).repeat(16, 1)
    frame = Frame(picture, 0.0, 0, Camera.from_fov(512, 320))
    first = None
    for name in names:
        try:
            network = backends.load_network(model, name, "cpu", 0, "fp32")
            network([frame])
            start = time.perf_counter()
            heatmaps = network([frame])[0].heatmaps
            spent_ms = (time.perf_counter() - start) * 1e3
        except ManyposeError as error:
            yield Check(f"inference {name}", MISSING if name == names[0] else WARNING, str(error))
            continue
        text = f"cpu, fp32, {spent_ms:.0f} ms"
        if first is None:
            first = heatmaps
            yield Check(f"inference {name}", OK, text)
            continue
        apart = float(np.abs(heatmaps - first).max())
        yield Check(
            f"inference {name}",
            OK if apart < 0.02 else WARNING,
            f"{text}; largest difference to {names[0]}: {apart:.1e}",
            "" if apart < 0.02 else f"this engine computes wrongly here: use --backend {names[0]}",
        )
    yield _gpu()


def _gpu() -> Check:
    """Return whether an NVIDIA GPU is there and used."""
    there = Path("/proc/driver/nvidia/version").exists() or shutil.which("nvidia-smi") is not None
    if importlib.util.find_spec("onnxruntime") is None:
        providers: list[str] = []
    else:
        import onnxruntime

        providers = getattr(onnxruntime, "get_available_providers", list)()
    usable = "CUDAExecutionProvider" in providers
    if there and not usable:
        return Check(
            "GPU", WARNING, "an NVIDIA GPU is here, ONNX Runtime cannot use it",
            "pip uninstall -y onnxruntime; pip install 'manypose[gpu]'",
        )  # fmt: skip
    if there:
        return Check("GPU", OK, "NVIDIA, by ONNX Runtime (--device cuda shows whether it runs)")
    return Check("GPU", NOTE, "no NVIDIA GPU; the processor does the work")


def settings() -> Iterable[Check]:
    """Return where settings, log and own networks live, and whether the settings are sound."""
    import platformdirs

    from manypose.app.config import load_config, user_file
    from manypose.models.weights import user_folder

    log = Path(platformdirs.user_log_dir("manypose", appauthor=False)) / "manypose.log"
    try:
        load_config()
    except ManyposeError as error:
        yield Check("settings", WARNING, str(error), "mend or remove that file")
    else:
        there = "there" if user_file().is_file() else "none yet"
        yield Check("settings", OK, f"{user_file()} ({there})")
    yield Check("log", OK, str(log))
    yield Check("own networks", OK, str(user_folder()))
