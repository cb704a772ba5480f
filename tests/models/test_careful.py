from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from manypose.calib.camera import Camera
from manypose.errors import UsageError
from manypose.models import backends
from manypose.models.careful import sizes, unmirrored
from manypose.models.front_end import load_front_end
from manypose.models.preprocess import grid_to_image, letterbox, on_grid
from manypose.pose.joints import INDEX_2D, LIMBS
from manypose.pose.records import Frame

Files = dict[str, Path]


def test_sizes_are_such_as_some_file_can_be_given() -> None:
    there = [(384, 240), (512, 320)]
    assert sizes(there, free=True) == [(768, 480), (384, 240), (256, 160)]
    assert sizes(there, free=False) == [(512, 320), (384, 240)]
    for w, h in sizes([(96, 80)], free=True):
        assert (w % 16, h % 16) == (0, 0)
    assert all(min(s) > 0 for s in sizes([(32, 48)], free=True))


@pytest.mark.parametrize("small", [(96, 64), (128, 64), (64, 96)])
def test_maps_of_a_smaller_input_lie_on_the_same_places(small: tuple[int, int]) -> None:
    """Maps that tell where their cells lie in the picture, and on the large grid still do."""
    picture = np.zeros((320, 512, 3), np.uint8)
    _, to_picture = letterbox(picture, small[1], small[0])
    y, x = np.mgrid[: small[1] // 8, : small[0] // 8].astype(np.float32)
    places = np.stack([x, y, np.ones_like(x)], -1) @ to_picture.T.astype(np.float32)
    maps = np.ascontiguousarray(places.transpose(2, 0, 1))
    moved = on_grid(maps, to_picture, grid_to_image(1, 1), 64, 40)
    y, x = np.mgrid[:40, :64] * 8 + 3.5
    inside = np.s_[:, 4:-4, 4:-4]  # beyond the outermost cells nothing is known
    assert np.abs(moved - np.stack([x, y]))[inside].max() < 0.5


@pytest.mark.parametrize("backend", ["onnx", "openvino"])
def test_three_looks_are_brought_together(small_files: Files, backend: str) -> None:
    pytest.importorskip(backend.replace("onnx", "onnxruntime"))
    front_end = load_front_end("tiny", backend, "cpu", 1, "fp32", careful=True)
    rng = np.random.default_rng(3)
    picture = rng.integers(0, 255, (8, 12, 3), np.uint8).repeat(20, 0).repeat(20, 1)
    frames = [Frame(picture, 0.0, 0, Camera.from_fov(240, 160))] * 2
    outputs, spent = front_end.network.timed(frames)
    assert set(spent) == {"resize", "network"}
    assert len(outputs) == 2
    w, h = front_end.info.input_size
    assert (w, h) == (192, 128)
    heat = outputs[0].heatmaps
    assert heat.shape[1:] == (h // 8, w // 8)
    squares = []
    for size in [(192, 128), (96, 64), (64, 32)]:
        alone = backends.load_network("tiny", backend, "cpu", 1, "fp32", size=size)
        boxed, to_boxed = letterbox(letterbox(picture, h, w)[0], size[1], size[0])
        (maps,) = alone.maps(boxed[None])["heatmaps"]
        squares.append(on_grid(maps, to_boxed, grid_to_image(1, 1), w // 8, h // 8) ** 2)
    together = np.sqrt(np.mean(squares, 0))
    assert together.max() > 1e-3
    np.testing.assert_allclose(heat, np.minimum(1.25 * together, 1), rtol=1e-3, atol=1e-7)
    assert len(front_end(frames)) == 2


def test_in_the_mirror_maps_are_those_of_the_picture(small_files: Files) -> None:
    pytest.importorskip("onnxruntime")
    network = backends.load_network("tiny", "onnx", "cpu", 1, "fp32", size=(96, 64))
    boxed = np.random.default_rng(3).integers(0, 255, (2, 64, 96, 3), np.uint8)
    maps = network.maps(boxed)
    for name, m in maps.items():
        back = unmirrored(name, unmirrored(name, m))
        assert np.array_equal(back, m)
        assert not np.allclose(unmirrored(name, m), m[..., ::-1])
    joint, limb = INDEX_2D["l_wrist"], LIMBS.index((INDEX_2D["l_elbow"], INDEX_2D["l_wrist"]))
    other = LIMBS.index((INDEX_2D["r_elbow"], INDEX_2D["r_wrist"]))
    heat, pafs = (unmirrored(k, maps[k]) for k in ("heatmaps", "pafs"))
    assert np.array_equal(heat[:, joint], maps["heatmaps"][:, INDEX_2D["r_wrist"], :, ::-1])
    assert np.array_equal(pafs[:, 2 * limb], -maps["pafs"][:, 2 * other, :, ::-1])
    assert np.array_equal(pafs[:, 2 * limb + 1], maps["pafs"][:, 2 * other + 1, :, ::-1])


def test_photographs_and_their_mirrors_give_mirrored_maps(small_files: Files) -> None:
    pytest.importorskip("onnxruntime")
    front_end = load_front_end("tiny", "onnx", "cpu", 1, "fp32", careful=True, mirror=True)
    plain = load_front_end("tiny", "onnx", "cpu", 1, "fp32", careful=True)
    w, h = front_end.info.input_size
    boxed = np.random.default_rng(3).integers(0, 255, (1, h // 16, w // 16, 3), np.uint8)
    boxed = boxed.repeat(16, 1).repeat(16, 2)
    there = front_end.network.maps(boxed)
    back = front_end.network.maps(np.ascontiguousarray(boxed[:, :, ::-1]))
    for name, m in there.items():
        large = float(np.abs(m).max())
        np.testing.assert_allclose(unmirrored(name, back[name]), m, atol=0.01 * large)
        assert np.abs(plain.network.maps(boxed)[name] - m).max() > 0.1 * large


def test_careful_names_what_it_does_not_go_with(small_files: Files, tmp_path: Path) -> None:
    for wish in ({"size": (96, 64)}, {"target_fps": 30.0}):
        with pytest.raises(UsageError, match="leave --input and --target-fps away"):
            load_front_end("tiny", "onnx", "cpu", 1, "fp32", careful=True, **wish)


def test_a_network_is_scored_by_name_as_users_run_it(
    small_files: Files, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from manypose.app.main import main
    from manypose.models.train import packs
    from manypose.models.train.figures import figures

    packs.write_pack(figures(2, 96, 64), tmp_path / "pack")
    words = ["train", "score", "tiny", "--val", str(tmp_path / "pack"), "--threads", "1"]
    assert main([*words, "--careful"]) == 0
    assert "192x128, 96x64, 64x32" in capsys.readouterr().err
    assert main([*words, "--careful", "--size", "96x64"]) == 2
    assert main(["train", "score", "no.pt", "--val", "x", "--careful"]) == 2
    assert main([*words, "--size", "64x32", "--precision", "fp32"]) == 0
    assert "2 photos at 64x32: AP 0." in capsys.readouterr().err
