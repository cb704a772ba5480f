from __future__ import annotations

import tomllib
from pathlib import Path

import pytest

import manypose.app.config as config_module
from manypose.app.config import Config, known_keys, load_config
from manypose.errors import ConfigError

DEFAULTS = Path(config_module.__file__).with_name("default.toml")


@pytest.fixture
def nothing(tmp_path: Path) -> dict[str, Path]:
    return {"user": tmp_path / "none.toml", "project": tmp_path / "none.toml"}


def test_default_toml_documents_every_setting_with_its_default() -> None:
    text = DEFAULTS.read_text("utf-8")
    assert tomllib.loads(text) == Config().as_dict()
    for line in text.splitlines():
        assert "=" not in line.partition("#")[0] or "#" in line, f"no comment: {line}"


def test_later_places_win(tmp_path: Path) -> None:
    user, project = tmp_path / "user.toml", tmp_path / "project.toml"
    user.write_text("[people]\nmax = 1\nmin_age = 9\n[filter]\npreset = 'fast'\n")
    project.write_text("[people]\nmax = 2\n[camera]\nfov_deg = 50\n")
    environ = {"MANYPOSE_PEOPLE_MAX": "3", "MANYPOSE_CAMERA_FOV_DEG": "55.5", "OTHER": "x"}
    got = load_config([("people.max", "4")], environ=environ, user=user, project=project)
    assert (got.people.max, got.camera.fov_deg) == (4, 55.5)
    assert (got.people.min_age, got.filter.preset) == (9, "fast")
    got = load_config([], environ={}, user=user, project=project)
    assert (got.people.max, got.camera.fov_deg) == (2, 50.0)


@pytest.mark.parametrize(
    ("key", "value", "says"),
    [
        ("people.maxx", "3", "did you mean people.max?"),
        ("people.max", "many", "whole number"),
        ("people.max", "0", "between 1 and 100"),
        ("people.min_score", "nan", "a number"),
        ("filter.preset", "smooth", "choose one of"),
        ("source.realtime", "perhaps", "true or false"),
        ("output.formats", 3, "list of names"),
    ],
)
def test_a_wrong_setting_is_refused(
    nothing: dict[str, Path], key: str, value: object, says: str
) -> None:
    with pytest.raises(ConfigError, match=says.replace("?", r"\?")):
        load_config([(key, value)], environ={}, **nothing)


def test_lists_are_given_with_commas(nothing: dict[str, Path]) -> None:
    got = load_config([("output.formats", "npz, csv")], environ={}, **nothing)
    assert got.output.formats == ("npz", "csv")


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("[peple]\nmax = 1\n", r"unknown section \[peple\]; did you mean people"),
        ("[people]\nmaxx = 1\n", "did you mean people.max"),
        ("people = 1\n", "must be a section"),
        ("[people\n", "not a settings file"),
        ("[people]\nmax = true\n", "whole number"),
    ],
)
def test_a_wrong_file_is_refused_by_name(
    tmp_path: Path, nothing: dict[str, Path], text: str, says: str
) -> None:
    nothing["project"] = tmp_path / "manypose.toml"
    nothing["project"].write_text(text)
    with pytest.raises(ConfigError, match=f"manypose.toml: .*{says}"):
        load_config(environ={}, **nothing)


def test_a_misspelt_key_in_the_environment_is_refused(nothing: dict[str, Path]) -> None:
    with pytest.raises(ConfigError, match=r"MANYPOSE_PEOPLE_MAXX.*people\.max"):
        load_config(environ={"MANYPOSE_PEOPLE_MAXX": "1"}, **nothing)
    load_config(environ={"MANYPOSE_MODELS": "/x", "MANYPOSE_HOME_X": "1"}, **nothing)


def test_every_option_stands_for_a_setting() -> None:
    from manypose.app.options import OPTIONS

    assert set(OPTIONS) <= set(known_keys())
