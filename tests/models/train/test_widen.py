import numpy as np
import pytest
import torch

from manypose.errors import WeightsError
from manypose.models.heads import StageOne
from manypose.models.train import checkpoints, loop, pool, store, widen
from manypose.models.train.batches import PLAIN
from manypose.models.train.figures import figures
from manypose.models.train.recipe import Part, Recipe
from manypose.models.train.student import centre_of

NARROW, WIDE = 0.125, 0.2
W, H = 96, 64


@pytest.fixture(scope="module")
def narrow():
    """A narrow network whose normalisations have seen something."""
    torch.manual_seed(2)
    net = StageOne("selecsls42", NARROW)
    for module in net.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.running_mean.normal_(0, 0.1)
            module.running_var.uniform_(0.5, 1.5)
            torch.nn.init.normal_(module.bias, std=0.1)
    for head in (net.head2d, net.head3d):
        torch.nn.init.normal_(head[-1].weight, std=0.3)
    return net.eval()


def test_a_widened_network_answers_the_same_with_unequal_copies(narrow):
    wide = widen.widened(narrow, "selecsls42", WIDE).eval()
    images = torch.rand(2, 3, H, W, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        for a, b in zip(narrow(images), wide(images)):
            assert float(a.std()) > 0.01
            torch.testing.assert_close(a, b, atol=1e-4, rtol=1e-4)
    count = [sum(p.numel() for p in n.parameters()) for n in (narrow, wide)]
    assert count[1] > 1.5 * count[0]
    last = wide.head2d[-1].weight.detach()[:, :, 0, 0]
    few = narrow.head2d[-1].weight.shape[1]
    assert last.shape[1] > few
    assert len(np.unique(last.numpy().round(6), axis=1).T) == last.shape[1]


def test_what_cannot_be_widened_says_so(narrow):
    with pytest.raises(WeightsError, match="wider"):
        widen.widened(narrow, "selecsls42", 0.0625)
    with pytest.raises(WeightsError, match="--backbone"):
        widen.widened(narrow, "selecsls60", WIDE)


def test_a_layer_that_reads_widened_features_answers_the_same():
    g = torch.Generator().manual_seed(1)
    weight, few = torch.randn(4, 3, 1, 1, generator=g), torch.randn(1, 3, 5, 5, generator=g)
    many = few[:, torch.tensor([0, 0, 1, 1, 2])]
    wide = widen.reader(weight, 5)
    torch.testing.assert_close(
        torch.nn.functional.conv2d(many, wide), torch.nn.functional.conv2d(few, weight)
    )


def test_training_goes_on_from_narrower_weights(narrow, tmp_path):
    layer = centre_of(narrow.head2d[-1].in_channels)
    about = {"backbone": "selecsls42", "width": NARROW}
    checkpoints.save_weights(tmp_path, narrow, about, layer)
    held = store.load(figures(2, W, H), W)
    pool.write(tmp_path / "p", held, 2, W, H, PLAIN, torch.Generator().manual_seed(3))
    recipe = Recipe((Part(1, W, H, 2),), 1, "selecsls42", WIDE, steps=1, weight_centres=0.1)
    pools = [pool.Pool([tmp_path / "p"], torch.device("cpu"))]
    loop.train(recipe, None, [], [], tmp_path / "out", init=tmp_path / "ema.pt", pools=pools)
    net, about = checkpoints.network(tmp_path / "out" / "ema.pt")
    assert about["width"] == WIDE
    assert net.head2d[-1].in_channels > narrow.head2d[-1].in_channels
