"""Options of the command line that stand for settings: one table, shared by the verbs.

A verb calls `add_settings(parser, "camera.fov_deg", ...)` and later `settings(args)`, which returns
the effective `Config`: defaults, files and environment overridden by what was typed.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from typing import Any

from manypose.app.config import Config, load_config
from manypose.errors import UsageError

# Setting -> (option, placeholder, help). A placeholder of "" is a switch that means true.
OPTIONS: dict[str, tuple[str, str, str]] = {
    "source.rotate": ("--rotate", "DEG", "turn pictures clockwise by 0, 90, 180, 270; auto = tag"),
    "source.realtime": ("--realtime", "", "play a file at its own pace and drop late frames"),
    "camera.file": ("--camera", "FILE", "camera file from manypose calibrate"),
    "camera.fov_deg": ("--fov", "DEG", "horizontal field of view in degrees"),
    "model.name": ("--model", "NAME|FILE", "network by name (manypose models) or file"),
    "model.backend": ("--backend", "NAME", "auto, onnx, openvino, torch"),
    "model.device": ("--device", "NAME", "auto, cpu, cuda, cuda:1"),
    "model.precision": ("--precision", "NAME", "auto, fp32, fp16, bf16, int8"),
    "model.threads": ("--threads", "N", "threads of the network; 0 = as many as there are"),
    "model.input": ("--input", "WxH", "input of the network: 512x320 sees more, 384x240 is faster"),
    "model.target_fps": ("--target-fps", "N", "live: a smaller input where N frames/s need it"),
    "model.careful": (
        "--careful",
        "",
        "three looks at every frame: finds more, takes longer (photographs: always)",
    ),
    "people.max": ("--max-people", "N", "people reported at most in one frame"),
    "fit.height_m": ("--height", "M", "true body height in metres"),
    "filter.preset": ("--filter", "NAME", "steady, normal, fast, off"),
    "filter.smooth": (
        "--smooth",
        "NAME",
        "auto, none, adaptive, butterworth, kalman: recordings, without delay",
    ),
    "output.formats": ("--format", "LIST", "npz,csv,jsonl,coco"),
    "output.video": ("--video", "", "also write overlay.mp4"),
    "output.export": ("--export", "LIST", "further formats after the run: bvh,trc,..."),
}


def add_settings(parser: argparse.ArgumentParser, *keys: str) -> None:
    """Add the options of these settings to a verb's parser."""
    for key in keys:
        option, placeholder, text = OPTIONS[key]
        if placeholder:
            parser.add_argument(option, dest=key, metavar=placeholder, help=text)
        else:
            parser.add_argument(option, dest=key, action="store_const", const=True, help=text)


def add_streams(parser: argparse.ArgumentParser, title: str) -> None:
    """Add the options of results that are sent while they happen (`stream.streaming`)."""
    streams = parser.add_argument_group(title)
    streams.add_argument("--vmc", metavar="HOST:PORT", help="VMC for avatars (port 39539)")
    streams.add_argument("--osc", metavar="HOST:PORT", help="plain OSC")
    streams.add_argument("--udp", metavar="HOST:PORT", help="JSON over UDP")
    streams.add_argument("--websocket", metavar="HOST:PORT", help="JSON for browsers")
    streams.add_argument(
        "--person", default="all", metavar="WHO", help="for --vmc: all, nearest or an id"
    )


def settings(args: argparse.Namespace) -> Config:
    """Return the effective settings of a command line.

    Raises:
        ConfigError: a setting is unknown or wrong.
    """
    return load_config(_typed(args))


def _typed(args: argparse.Namespace) -> Iterator[tuple[str, Any]]:
    for assignment in getattr(args, "set", None) or ():
        key, equals, value = assignment.partition("=")
        if not equals:
            raise UsageError(f"--set {assignment}: write --set section.key=value")
        yield key.strip(), value.strip()
    typed = vars(args)
    for key in OPTIONS:
        if typed.get(key) is not None:
            yield key, typed[key]
