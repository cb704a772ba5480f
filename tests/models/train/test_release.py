import csv
import importlib.util
import tomllib

import pytest
import torch

from manypose.app.main import main
from manypose.errors import WeightsError
from manypose.models import quantise
from manypose.models.heads import StageOne
from manypose.models.train import checkpoints, packs, release
from manypose.models.train.figures import figures

NNCF = importlib.util.find_spec("nncf") is not None
FILES = [
    f"tiny{size}{kind}"
    for size in ("", "_128x96")
    for kind in (".onnx", "_int8.onnx", "_int8.xml")[: 3 if NNCF else 2]
]


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("release")
    torch.manual_seed(0)
    net = StageOne("selecsls42", 0.125).eval()
    about = {"backbone": "selecsls42", "width": 0.125, "images": 40, "minutes": 2.0}
    checkpoints.save_weights(folder, net, about)
    packs.write_pack(iter(figures(6, 96, 64)), folder / "val")
    packs.write_pack(iter(figures(9, 96, 64, seed=1)), folder / "cal")
    command = [
        "train", "release", str(folder / "ema.pt"), "--name", "tiny", "--size", "96x64", "128x96",
        "--val", f"pack:{folder / 'val'}", "--calibrate", f"pack:{folder / 'cal'}",
        "--out", str(folder / "out"), "--trained-on", "drawn figures",
    ]  # fmt: skip
    with pytest.MonkeyPatch.context() as patch:
        # an untrained network rounds badly: looking for layers to keep in float would take a minute
        patch.setattr(quantise, "SQNR_WANTED_DB", -100.0)
        assert main(command) == 0
    return folder, command


@pytest.mark.slow
def test_files_manifest_card_and_history_are_written(run):
    folder, _ = run
    out = folder / "out"
    rows = tomllib.loads((out / "weights.toml").read_text())["network"]
    assert {(r["name"], r["precision"]) for r in rows} == {("tiny", "fp32"), ("tiny", "int8")}
    assert sorted(r["file"] for r in rows) == sorted(FILES)
    assert all((out / r["file"]).exists() for r in rows)
    again, about = checkpoints.network(out / "tiny_start.npz")
    before, _ = checkpoints.network(folder / "ema.pt")
    assert about["images"] == 40
    for name, value in before.state_dict().items():
        assert torch.equal(again.state_dict()[name], value), name
    (out / "tiny_start.npz").write_bytes(b"PK no archive")
    with pytest.raises(WeightsError, match="cannot be read"):
        checkpoints.network(out / "tiny_start.npz")
    card = (out / "tiny.md").read_text()
    for words in ("selecsls42", "drawn figures", "40 pictures", "| OKS AP", "ceiling"):
        assert words in card
    assert str(folder) not in card
    history = list(csv.DictReader((out / "history.csv").read_text().splitlines()))
    assert [r["file"] for r in history] == FILES
    assert history[0]["pictures_seen"] == "40"
    assert history[0]["ap"] != ""


def test_a_second_release_renews_scores_and_keeps_the_words_of_people(tmp_path):
    card = tmp_path / "x.md"
    card.write_text("# Mine\n\n## Measured\n\nstale\n\n## Failures\n\nMany.\n")
    release.write_card(card, "# Made\n", "## Measured\n\nfresh\n")
    assert card.read_text() == "# Mine\n\n## Measured\n\nfresh\n\n## Failures\n\nMany.\n"
    rows = [(tmp_path / "x.onnx", {"AP": 0.5}, "96x64")]
    for _ in range(2):
        release.add_history(tmp_path / "history.csv", rows, {}, "coco")
    assert len((tmp_path / "history.csv").read_text().splitlines()) == 3


def test_a_name_that_leaves_the_folder_is_refused(run, capsys):
    _, command = run
    bad = [w if w != "tiny" else "../tiny" for w in command]
    assert main(bad) == 2
    assert "--name" in capsys.readouterr().err
