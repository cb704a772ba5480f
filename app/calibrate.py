"""``manypose calibrate``: a camera file from pictures, a video or a live view of a board."""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from manypose.app.config import Config
from manypose.app.sources import open_source
from manypose.calib.board import (
    VIEWS_MIN,
    Board,
    BoardFinder,
    Calibration,
    View,
    calibrate,
    covered,
    floor_from_board,
    with_floor,
)
from manypose.calib.camera import Camera
from manypose.calib.files import read_camera_argument, write_cameras
from manypose.errors import CalibrationError, UsageError
from manypose.pose.records import Frame

# A new view of a moving source must differ from every kept one by this share of the diagonal.
_NEW_VIEW = 0.06
_VIEWS_WANTED = 20
_PLACES = (
    ("upper left", "top", "upper right"),
    ("left", "middle", "right"),
    ("lower left", "bottom", "lower right"),
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of the verb."""
    parser.add_argument("inputs", nargs="*", help="pictures, folders, a video or camera:N")
    parser.add_argument(
        "-o", "--output", dest="out", metavar="FILE", default="camera.toml",
        help="camera file to write",
    )  # fmt: skip
    parser.add_argument(
        "--board",
        help="checkerboard:COLUMNSxROWS (inner corners) or charuco:COLUMNSxROWS (squares)",
    )
    parser.add_argument("--square-mm", type=float, help="side of a square in millimetres")
    parser.add_argument("--marker-ratio", type=float, default=0.75, help="marker / square side")
    parser.add_argument("--dictionary", default="4X4_1000", help="ArUco dictionary, as 5X5_100")
    parser.add_argument("--fov", type=float, help="no board: horizontal field of view in degrees")
    parser.add_argument("--size", help="picture size for --fov, as 1920x1080")
    parser.add_argument("--camera", help="known intrinsics, when only the floor is wanted")
    parser.add_argument("--floor", metavar="PICTURE", help="picture with the board on the floor")
    parser.add_argument(
        "--floor-from", metavar="RUN", help="recorded run whose people walk on the floor"
    )
    parser.add_argument("--name", default="camera", help="name of the camera in the file")
    parser.add_argument("--views", type=int, default=_VIEWS_WANTED, help="views to collect live")
    parser.add_argument("--json", action="store_true", help="report as JSON on stdout")
    parser.add_argument("--overwrite", action="store_true", help="replace an existing file")


@dataclass
class _Collection:
    """Views by picture size, and what was refused and why."""

    views: dict[tuple[int, int], list[View]] = field(default_factory=dict)
    refused: dict[str, str] = field(default_factory=dict)
    size: tuple[int, int] = (0, 0)

    def add(self, view: View, size: tuple[int, int]) -> None:
        self.views.setdefault(size, []).append(view)

    def largest(self) -> tuple[tuple[int, int], list[View]]:
        if not self.views:
            why = "; ".join(f"{k}: {v}" for k, v in list(self.refused.items())[:3])
            raise CalibrationError(f"no usable picture of the board ({why or 'no pictures'})")
        return max(self.views.items(), key=lambda item: len(item[1]))


def run(args: argparse.Namespace) -> int:
    """Calibrate and write the camera file; exit code 3 when some pictures were refused."""
    out = Path(args.out)
    if out.exists() and not args.overwrite:
        raise UsageError(f"{out} exists: choose another name with -o, or give --overwrite")
    collection, result = _Collection(), None
    if args.fov is not None:
        camera = _from_fov(args)
    elif args.camera is not None:
        camera = read_camera_argument(args.camera)
    else:
        finder = BoardFinder(_board(args))
        if not args.inputs:
            raise UsageError("nothing to read: name pictures, a video or camera:0")
        for address in args.inputs:
            _collect(address, finder, collection, args.views)
        size, views = collection.largest()
        for other, lost in collection.views.items():
            if other != size:
                for v in lost:
                    collection.refused[v.name] = f"{other[0]}x{other[1]}, not {size[0]}x{size[1]}"
        result = calibrate(views, *size)
        camera = result.camera
    camera = _placed(camera, args)
    write_cameras(out, {args.name: camera}, _comment(result))
    _report(args, out, camera, result, collection)
    return 3 if collection.refused and args.inputs and not _is_moving(args.inputs) else 0


def _say(line: str) -> None:
    sys.stderr.write(line + "\n")


def _board(args: argparse.Namespace) -> Board:
    if not args.board or not args.square_mm:
        raise UsageError(
            "say what board it is, as in --board checkerboard:7x4 --square-mm 60 "
            "(or give --fov DEG --size WxH when there is none)"
        )
    kind, _, shape = str(args.board).partition(":")
    columns, rows = _two_numbers(shape, "--board")
    return Board(kind, columns, rows, args.square_mm / 1000, args.marker_ratio, args.dictionary)


def _two_numbers(text: str, option: str) -> tuple[int, int]:
    a, _, b = text.lower().partition("x")
    if not (a.isdigit() and b.isdigit()):
        raise UsageError(f"{option}: {text!r} should be two numbers, as in 7x4")
    return int(a), int(b)


def _from_fov(args: argparse.Namespace) -> Camera:
    if not 5 < args.fov < 170:
        raise UsageError(f"--fov {args.fov}: a horizontal field of view is 5 to 170 degrees")
    if not args.size:
        raise UsageError("--fov needs the picture size too, as in --size 1920x1080")
    return Camera.from_fov(*_two_numbers(args.size, "--size"), args.fov, source="fov")


def _placed(camera: Camera, args: argparse.Namespace) -> Camera:
    """Return the camera with extrinsics from a board on the floor or from walking people."""
    if args.floor:
        finder = BoardFinder(_board(args))
        for frame in _frames(args.floor):
            view = finder.find(frame.image, args.floor)
            if isinstance(view, str):
                raise CalibrationError(f"{args.floor}: {view}")
            h, w = frame.image.shape[:2]
            own = camera if (w, h) == (camera.width, camera.height) else camera.resized(w, h)
            placed = floor_from_board(view, own)
            return Camera(
                camera.K, camera.width, camera.height, camera.distortion, placed.R, placed.t,
                camera.source,
            )  # fmt: skip
    if args.floor_from:
        point, up = _floor_of_run(Path(args.floor_from))
        return with_floor(camera, point, up)
    return camera


def _floor_of_run(folder: Path) -> tuple[np.ndarray, np.ndarray]:
    """Return a point of the floor and its upward normal, camera axes, from the feet of a run."""
    from manypose.app.formats.reading import load_run
    from manypose.calib.floor import floor_plane
    from manypose.pose.joints import INDEX, SEEN

    run_ = load_run(folder)
    rows = []
    for foot, ankle in (("l_foot", "l_ankle"), ("r_foot", "r_ankle")):
        ok = run_.state[:, INDEX[ankle]] == SEEN
        rows.append(run_.kp3d[ok][:, INDEX[foot]])
    return floor_plane(np.concatenate(rows))


def _is_moving(inputs: list[str]) -> bool:
    return any(_kind_is_moving(i) for i in inputs)


def _kind_is_moving(address: str) -> bool:
    from manypose.app.sources import PICTURE_SUFFIXES

    path = Path(address)
    return not (path.is_dir() or path.suffix.lower() in PICTURE_SUFFIXES)


def _frames(address: str) -> Iterator[Frame]:
    with open_source(address, Config()) as source:
        yield from source


def _collect(address: str, finder: BoardFinder, collection: _Collection, wanted: int) -> None:
    """Add the views of one input; from a moving one only views that are new."""
    moving = _kind_is_moving(address)
    last_hint = 0.0
    for n, frame in enumerate(_frames(address)):
        h, w = frame.image.shape[:2]
        name = f"{address}#{frame.index}" if moving or Path(address).is_dir() else address
        if moving and n % 5:
            continue  # neighbours in time say the same
        view = finder.find(frame.image, name)
        kept = collection.views.get((w, h), [])
        if isinstance(view, str):
            if not moving:
                collection.refused[name] = view
                _say(f"{name}: {view}")
        elif not moving or _is_new(view, kept, w, h):
            collection.add(view, (w, h))
            kept = collection.views[(w, h)]
            _say(f"view {len(kept)}: {_hint(kept, w, h)}")
            if moving and len(kept) >= wanted:
                return
        elif time.monotonic() - last_hint > 3:
            last_hint = time.monotonic()
            _say(f"{len(kept)} of {wanted} views: {_hint(kept, w, h)}")


def _is_new(view: View, kept: list[View], width: int, height: int) -> bool:
    limit = _NEW_VIEW * float(np.hypot(width, height))

    def outline(v: View) -> np.ndarray:
        x, y = v.corners_px.T
        # four extreme points: they move with place, distance and tilt
        ends = [np.argmin(x + y), np.argmax(x - y), np.argmax(x + y), np.argmax(y - x)]
        return v.corners_px[ends]

    return all(np.abs(outline(view) - outline(k)).max() > limit for k in kept)


def _hint(views: list[View], width: int, height: int) -> str:
    """Return what to show next: the empty fields of the picture first, then tilt."""
    seen = covered(views, width, height)
    if not seen.all():
        y, x = np.argwhere(~seen)[0]
        return f"{int(seen.sum())} of 9 fields covered, move the board to the {_PLACES[y][x]}"
    return "all fields covered, tilt the board and vary its distance"


def _comment(result: Calibration | None) -> str:
    if result is None:
        return "Camera file of manypose."
    return (
        f"Camera file of manypose: {len(result.view_rms_px) - len(result.dropped)} board views, "
        f"error {result.rms_px:.3f} px rms."
    )


def _report(
    args: argparse.Namespace,
    out: Path,
    camera: Camera,
    result: Calibration | None,
    collection: _Collection,
) -> None:
    fov = float(np.degrees(2 * np.arctan(camera.width / 2 / camera.K[0, 0])))
    if args.json:
        doc = {
            "file": str(out),
            "width": camera.width,
            "height": camera.height,
            "fov_deg": fov,
            "K": camera.K.tolist(),
            "distortion": camera.distortion.tolist(),
            "rms_px": None if result is None else result.rms_px,
            "focal_sigma_px": None if result is None else result.sigma_px,
            "coverage": None if result is None else result.coverage,
            "views": {} if result is None else result.view_rms_px,
            "dropped": [] if result is None else list(result.dropped),
            "refused": collection.refused,
        }
        _say(json.dumps(doc, indent=1))
        return
    if result is not None:
        for name, error in result.view_rms_px.items():
            mark = "  left out" if name in result.dropped else ""
            _say(f"{error:7.3f} px  {name}{mark}")
        _say(
            f"{len(result.view_rms_px) - len(result.dropped)} views, {result.rms_px:.3f} px rms; "
            f"focal length {camera.K[0, 0]:.1f} +- {result.sigma_px:.1f} px, "
            f"{fov:.1f} degrees across; {result.coverage * 9:.0f} of 9 fields covered"
        )
        if len(result.view_rms_px) < 2 * VIEWS_MIN or result.coverage < 0.7:
            _say("more views in the empty parts of the picture would help")
    sys.stdout.write(f"{out}\n")
