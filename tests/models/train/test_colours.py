import cv2
import numpy as np
import torch

from manypose.models.train import colours


def _picture():
    rng = np.random.default_rng(0)
    coarse = rng.uniform(0, 1, (8, 12, 3)).astype(np.float32)
    smooth = cv2.resize(coarse, (96, 64), interpolation=cv2.INTER_CUBIC).clip(0, 1)
    smooth[20:40, 30:60] = 0.9  # a sharp edge, so that rings have something to ring at
    return torch.from_numpy(smooth).permute(2, 0, 1)[None].contiguous()


def test_compression_does_what_a_jpeg_of_opencv_does():
    image = _picture()
    ours = colours.compressed(image, torch.full((1, 1, 1, 1), 0.12))[0].permute(1, 2, 0).numpy()
    plain = image[0].permute(1, 2, 0).numpy()
    _, data = cv2.imencode(".jpg", (plain * 255).round(), [cv2.IMWRITE_JPEG_QUALITY, 30])
    theirs = cv2.imdecode(data, cv2.IMREAD_COLOR).astype(np.float32) / 255
    assert 0.01 < np.abs(ours - plain).mean() < 3 * np.abs(theirs - plain).mean()
    # jumps between blocks grow against those within blocks, in both

    def blockiness(x):
        step = np.abs(np.diff(x.mean(2), axis=1)).mean(0)
        return step[7::8].mean() / step[np.arange(len(step)) % 8 != 7].mean()

    assert blockiness(ours) > 1.05 * blockiness(plain)
    assert blockiness(theirs) > 1.05 * blockiness(plain)


def test_fine_steps_change_nothing_and_flat_pictures_stay_flat():
    image = _picture()
    fine = colours.compressed(image, torch.full((1, 1, 1, 1), 1e-5))
    assert (fine - image).abs().max() < 1e-3
    flat = torch.full((1, 3, 16, 16), 0.5)
    assert torch.equal(colours.compressed(flat, torch.ones(1, 1, 1, 1)), flat)


def test_varied_pictures_stay_pictures_and_differ():
    images = _picture().repeat(7, 1, 1, 1)
    varied = colours.vary(images.clone(), torch.Generator().manual_seed(0))
    assert varied.shape == images.shape
    assert varied.min() >= 0
    assert varied.max() <= 1
    assert torch.isfinite(varied).all()
    assert len({round(float(v.mean()), 4) for v in varied}) == 7
    assert varied.is_contiguous(memory_format=torch.channels_last)
