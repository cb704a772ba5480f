from __future__ import annotations

from pathlib import Path

import pytest

from manypose.app.config import load_config
from manypose.app.lanes import Lanes
from manypose.app.pipeline import for_live, load_engine
from manypose.errors import ConfigError, WeightsError


@pytest.mark.parametrize(("asked", "recorded", "live"), [
    ("recorded", True, False), ("always", True, True), ("never", False, False),
])  # fmt: skip
def test_live_nobody_waits_for_a_second_look_unless_asked(
    asked: str, recorded: bool, live: bool
) -> None:
    config = load_config([("model.long_shots", asked), ("model.threads", "1")])
    for settings, wanted in ((config, recorded), (for_live(config), live)):
        front_end = load_engine(settings).detector.front_end
        assert (front_end._far is not None) == wanted  # type: ignore[attr-defined]


@pytest.mark.parametrize(("asked", "careful", "still", "recorded", "live"), [
    ("auto", "false", 100, 4, 3), ("auto", "true", 100, 100, 3), ("careful", "false", 0, 0, 0),
    ("careful", "true", 100, 100, 0), ("few", "true", 3, 3, 3), ("largest", "false", 4, 4, 4),
    ("always", "false", 100, 100, 100), ("never", "true", 0, 0, 0),
])  # fmt: skip
def test_so_many_are_looked_at_again_as_there_is_time_for(
    asked: str, careful: str, still: int, recorded: int, live: int
) -> None:
    words = [("model.portraits", asked), ("model.careful", careful), ("model.threads", "1")]
    config = load_config(words)
    for settings, alone, wanted in (
        (config, True, still), (config, False, recorded), (for_live(config), False, live)
    ):  # fmt: skip
        engine = load_engine(settings, still=alone)
        portraits = engine.detector.front_end.portraits  # type: ignore[attr-defined]
        assert (portraits._most if portraits else 0) == wanted
        assert (engine.look is not None) == ("portraits" in engine.info) == (wanted > 0)


@pytest.mark.parametrize(("words", "still", "wanted"), [
    ({}, True, (768, 480)), ({}, False, (384, 240)), ({"careful": "true"}, False, (768, 480)),
    ({"careful": "never"}, True, (384, 240)), ({"careful": "false"}, True, (384, 240)),
    ({"input": "512x320"}, True, (512, 320)),
])  # fmt: skip
def test_photographs_are_looked_at_in_three_sizes_unless_something_else_is_asked(
    words: dict[str, str], still: bool, wanted: tuple[int, int]
) -> None:
    options = [(f"model.{key}", value) for key, value in words.items()]
    config = load_config([("model.threads", "1"), *options])
    engine = load_engine(config, still=still)
    assert tuple(engine.info["input_size"]) == wanted
    # what somebody waits for is not looked at so unless asked for
    live = load_engine(for_live(config), still=still).info["input_size"]
    assert tuple(live) == (
        (384, 240) if "careful" not in words and "input" not in words else wanted
    )


def test_networks_of_ones_own_look_at_photographs_once(tmp_path: Path) -> None:
    file = tmp_path / "mine.toml"
    file.write_text('[pose]\nkind = "heatmap"\nfile = "none.onnx"\ninput = [192, 256]\n')
    with pytest.raises(WeightsError, match=r"none\.onnx"):
        load_engine(load_config([("model.name", str(file))]), still=True)


def test_the_window_loads_what_is_meant_for_live(tmp_path: Path) -> None:
    seen = []

    def load(config):  # type: ignore[no-untyped-def]
        seen.append(config.model.long_shots)
        raise ConfigError("enough")

    lanes = Lanes([str(tmp_path / "none.mp4")], load_config(), load)
    while lanes.error is None:
        lanes._stop.wait(0.01)
    lanes.close()
    assert seen == ["never"]


def test_another_word_is_refused() -> None:
    with pytest.raises(ConfigError, match="recorded, always, never"):
        load_config([("model.long_shots", "yes")])
