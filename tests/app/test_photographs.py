"""Photographs: each on its own, and looked at by an engine of their own."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest
from drawn_engine import drawn_engine
from made_clips import album, clip

from manypose.app import run as run_module
from manypose.app.config import Config
from manypose.app.formats.reading import load_run
from manypose.app.pipeline import Engine

Call = Callable[..., int]


def test_photographs_are_taken_each_on_its_own(call: Call) -> None:
    sizes = album(Path("album"))
    assert call("album", "album/b.png", "--format", "npz", "--video") == 0
    run, one = load_run("out/album"), load_run("out/b")
    assert [run.meta["still"], one.meta["still"]] == [True, True]
    assert [*run.n, *one.n] == [2, 2, 2]
    drawn = cv2.imread("out/album/overlay/a.jpg"), cv2.imread("out/b/overlay/b.png.jpg")
    assert [d.shape[1::-1] for d in drawn if d is not None] == [sizes["a.jpg"], sizes["b.png"]]
    assert run.meta["summary"]["outputs"][-1] == "overlay"
    assert call("album", "--format", "npz", "--overwrite") == 0
    assert not list(Path("out/album/overlay").glob("*"))


def test_photographs_and_videos_have_networks_of_their_own(
    call: Call, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = list[bool]()

    def load(config: Config, *, still: bool = False, batch: int = 1) -> Engine:
        made.append(still)
        return drawn_engine(config, still=still, batch=batch)

    monkeypatch.setattr(run_module, "load_engine", load)
    album(Path("album"))
    assert call("album", clip(frames=3), "album/b.png", "--format", "npz") == 0
    assert made == [True, False]
    assert call("album", "-o", "-") == 0
    assert made == [True, False, True]


def test_pictures_in_which_nobody_is_followed_bring_a_hint(call: Call) -> None:
    Path("empty").mkdir()
    for number in range(3):
        cv2.imwrite(f"empty/{number}.png", np.zeros((96, 160, 3), np.uint8))
    assert call("empty", "--format", "npz", "--set", "people.min_score=0.95") == 0
    run = load_run("out/empty")
    assert not run.meta["still"]
    assert "--still" in run.meta["summary"]["warnings"][0]


def test_still_has_people_from_the_first_picture_on(call: Call) -> None:
    assert call(clip(frames=3), "--still", "--format", "npz") == 0
    assert list(load_run("out/clip").n) == [2, 2, 2]
