import numpy as np
import pytest
import torch

from manypose.app.main import main
from manypose.models.heads import StageOne
from manypose.models.train import checkpoints


def weights(folder, seed, width=0.25, centre=True):
    torch.manual_seed(seed)
    folder.mkdir()
    net = StageOne("selecsls42", width)
    layer = torch.nn.Conv2d(3, 4, 1) if centre else None
    about = {"backbone": "selecsls42", "width": width, "images": 10 * seed}
    checkpoints.save_weights(folder, net, about, layer)
    return folder / "ema.pt"


def test_the_mean_lies_between_and_loads(tmp_path):
    files = [weights(tmp_path / str(n), n) for n in (1, 2)]
    out = tmp_path / "new" / "mean.pt"
    words = ["train", "average", *map(str, files), "--out", str(out)]
    assert main([*words, "--shares", "0.25", "0.75"]) == 0
    one, two, mean = (checkpoints.read(f) for f in (*files, out))
    for part in ("ema", "centre"):
        for key, value in mean[part].items():
            if value.is_floating_point():
                wanted = 0.25 * one[part][key].float() + 0.75 * two[part][key].float()
                np.testing.assert_allclose(value.float(), wanted, atol=2e-3)
    net, about = checkpoints.network(out)
    assert about["images"] == 20
    assert net(torch.zeros(1, 3, 64, 64))


@pytest.mark.parametrize(
    "words", [["--shares", "1"], ["--shares", "0.5", "0.6"], ["--out", "x.txt"]]
)
def test_nonsense_is_told(tmp_path, words):
    files = [str(weights(tmp_path / str(n), n)) for n in (1, 2)]
    assert main(["train", "average", *files, "--out", str(tmp_path / "m.pt"), *words]) == 2


def test_other_networks_do_not_mix(tmp_path, capsys):
    files = [str(weights(tmp_path / str(w), 1, w)) for w in (0.25, 0.5)]
    assert main(["train", "average", *files, "--out", str(tmp_path / "m.pt")]) == 5
    assert "one network" in capsys.readouterr().err
    files[1] = str(weights(tmp_path / "plain", 2, centre=False))
    assert main(["train", "average", *files, "--out", str(tmp_path / "m.pt")]) == 0
    assert "centre" not in checkpoints.read(tmp_path / "m.pt")
