import pytest
import torch

from manypose.models.heads import BACKBONES, StageOne
from manypose.pose.joints import JOINTS, JOINTS_2D, LIMBS

WIDTH = 0.125


@pytest.mark.parametrize("name", BACKBONES)
def test_every_backbone_goes_forward_and_backward(name):
    torch.manual_seed(0)
    # grouped convolutions need enough channels
    net = StageOne(name, 0.25 if "grouped" in name else WIDTH)
    maps = net(torch.rand(2, 3, 64, 96))
    assert maps.heatmaps.shape == (2, len(JOINTS_2D), 8, 12)
    assert maps.pafs.shape == (2, 2 * len(LIMBS), 8, 12)
    assert maps.encodings.shape == (2, 3 * len(JOINTS), 8, 12)
    sum(m.square().mean() for m in maps).backward()
    for key, p in net.named_parameters():
        assert p.grad is not None, key
        assert torch.isfinite(p.grad).all(), key


@pytest.mark.parametrize(("height", "width"), [(32, 32), (48, 80), (160, 256), (112, 208)])
def test_any_size_in_multiples_of_16_gives_maps_at_stride_8(height, width):
    net = StageOne("selecsls42", WIDTH).eval()
    with torch.inference_mode():
        maps = net(torch.rand(1, 3, height, width))
    assert all(m.shape[-2:] == (height // 8, width // 8) for m in maps)


def test_the_3d_head_does_not_train_the_2d_head():
    net = StageOne("selecsls42", WIDTH)
    net(torch.rand(2, 3, 32, 32)).encodings.square().mean().backward()
    assert all(p.grad is None for p in net.head2d.parameters())
    assert net.trunk[0][0].weight.grad is not None


def test_maps_move_with_the_picture():
    """A shift by 16 px moves the maps by two cells, away from the borders."""
    torch.manual_seed(1)
    net = StageOne("selecsls42", WIDTH).eval()
    x = torch.rand(1, 3, 256, 384)
    with torch.inference_mode():
        a = net(x).heatmaps
        b = net(x.roll(64, -1)).heatmaps
    inner = (a - b.roll(-8, -1))[..., 14:18, 20:28].abs().max()
    assert inner < 0.1 * a.std() + 1e-4


def test_an_unknown_backbone_is_named():
    with pytest.raises(ValueError, match="selecsls60"):
        StageOne("resnet")
