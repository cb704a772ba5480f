import numpy as np
import pytest
import torch

from manypose.app.main import main
from manypose.models.heads import StageOne
from manypose.models.train import average, checkpoints, pool, store
from manypose.models.train.batches import PLAIN, Augmentation
from manypose.models.train.figures import figures


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


def test_normalisation_is_counted_anew_on_pictures(tmp_path):
    held = store.load(figures(4, 64, 48), 64)
    pool.write(tmp_path / "pool", held, 16, 64, 48, PLAIN, torch.Generator().manual_seed(1))
    files = [str(weights(tmp_path / str(n), n)) for n in (1, 2)]
    words = ["train", "average", *files, "--pool", str(tmp_path / "pool"), "--pictures", "16"]
    for name in ("a.pt", "b.pt"):
        assert main([*words, "--out", str(tmp_path / name)]) == 0
    plain = average.mean(
        [checkpoints.read(tmp_path / str(n) / "ema.pt") for n in (1, 2)], [0.5, 0.5]
    )
    one, other = (checkpoints.read(tmp_path / name) for name in ("a.pt", "b.pt"))
    assert set(one["centre"]) == set(plain["centre"])
    for key, value in one["ema"].items():
        np.testing.assert_array_equal(value, other["ema"][key])
        if "running" not in key and value.is_floating_point():
            np.testing.assert_array_equal(value, plain["ema"][key])
    seen: list[torch.Tensor] = []
    net, _ = checkpoints.network(tmp_path / "a.pt")
    first, norm = next(
        (n, m) for n, m in net.named_modules() if isinstance(m, torch.nn.BatchNorm2d)
    )
    norm.register_forward_hook(lambda layer, given, answer: seen.append(given[0]))
    again = pool.Pool([tmp_path / "pool"], torch.device("cpu"), seed=5)
    shown = again.take(16, Augmentation(), torch.Generator().manual_seed(0)).batch.images
    with torch.no_grad():
        net(shown)
    mean = seen[0].mean((0, 2, 3))
    np.testing.assert_allclose(one["ema"][f"{first}.running_mean"], mean, atol=1e-3)
    assert main([*words[:-1], "3", "--out", str(tmp_path / "c.pt")]) == 2
