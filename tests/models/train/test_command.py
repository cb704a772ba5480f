import argparse
import json
import logging

import pytest

from manypose.app.main import main
from manypose.errors import UsageError
from manypose.models import preprocess
from manypose.models.train import packs, stage1
from manypose.models.train.figures import figures

TINY = ("--width", "0.125", "--threads", "1", "--quiet")


@pytest.fixture(autouse=True)
def _handlers():
    """Leave the log as it was: the command line sets it up."""
    log = logging.getLogger("manypose")
    before = list(log.handlers), log.level, log.propagate
    yield
    for handler in set(log.handlers) - set(before[0]):
        log.removeHandler(handler)
        handler.close()
    log.handlers[:], log.level, log.propagate = before


@pytest.mark.slow
def test_from_photos_to_a_score_by_commands(tmp_path, capsys):
    packs.write_pack(figures(4, 96, 64), tmp_path / "a")
    pack = str(tmp_path / "pack")
    assert main(["train", "pack", f"pack:{tmp_path / 'a'},limit=3", "--out", pack]) == 0
    assert len(list(packs.read_pack(tmp_path / "pack"))) == 3
    out = str(tmp_path / "run")
    code = main(["train", "stage1", "--preset", "cpu", "--data", pack, "--val", pack,
                 "--out", out, "--steps", "2", "--parts", "1:64x48x2", *TINY])  # fmt: skip
    assert code == 0
    config = json.loads((tmp_path / "run" / "config.json").read_text())
    assert config["recipe"]["width"] == 0.125
    (tmp_path / "run" / "ema.pt").unlink()
    assert main(["train", "join", out]) == 0
    weights = str(tmp_path / "run" / "ema.pt")
    capsys.readouterr()
    assert main(["train", "score", weights, "--val", pack, "--size", "96x64",
                 "--sheet", str(tmp_path / "s.jpg")]) == 0  # fmt: skip
    assert "AP 0." in capsys.readouterr().err
    assert (tmp_path / "s.jpg").stat().st_size > 1000
    # and on with it
    code = main(["train", "stage1", "--preset", "cpu", "--data", pack, "--out", out, "--steps",
                 "3", "--parts", "1:64x48x2", "--resume", *TINY])  # fmt: skip
    assert code == 0


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["--preset", "cpu"], "--data"),
        (["--preset", "smoke", "--parts", "1:60x48x2"], "multiples of 16"),
        (["--preset", "smoke", "--parts", "all"], "SHARE:WxHxBATCH"),
        (["--preset", "smoke", "--minutes", "0"], "above 0"),
        (["--preset", "smoke", "--device", "cuda:9"], "--device cpu"),
        (["--preset", "cpu", "--no-canvas", "--pool", "a"], "--no-canvas"),
    ],
)
def test_wrong_options_are_one_clear_line(words, expected, tmp_path, capsys):
    code = main(["train", "stage1", "--out", str(tmp_path / "run"), *words])
    assert code in (2, 5)
    text = capsys.readouterr().err
    assert expected in text
    assert "Traceback" not in text


def test_masks_and_canvas_can_be_switched_off():
    parser = argparse.ArgumentParser()
    stage1.add_arguments(parser)
    plain, off = (
        stage1._recipe(parser.parse_args(words)).how
        for words in ([], ["--no-masks", "--no-canvas"])
    )
    assert (plain.masks, plain.canvas) == (True, True)
    assert (off.masks, off.canvas) == (False, False)


def test_sizes_are_multiples_of_16():
    assert preprocess.size_named("512x320") == (512, 320)
    for text in ("512", "512x321", "axb", "16x16"):
        with pytest.raises(UsageError):
            preprocess.size_named(text)


def test_smoke_takes_clear_people_only():
    recipe = stage1.PRESETS["smoke"]
    assert len(stage1._few([], recipe)) == 16
