import csv
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from manypose.app.main import main
from manypose.errors import SourceError, WeightsError
from manypose.models.portrait import Portrait
from manypose.models.train import checkpoints, packs
from manypose.models.train.figures import figures
from manypose.models.train.packs import photo
from manypose.models.train.portraits import batch, clues, hold_out, loop, patches
from manypose.models.train.portraits.batch import Variation
from manypose.models.train.portraits.clues import Faults
from manypose.pose.joints import (
    BONE_UNIT_M,
    INDEX,
    INDEX_2D,
    JOINTS,
    JOINTS_2D,
    MIRROR_2D,
    SHOWN_BY,
)
from manypose.pose.portraits import CLUES, HEIGHT, WIDTH, sheets, unfolded
from manypose.pose.records import Person2D

K, J = len(JOINTS_2D), len(JOINTS)
DOTS = {"r_wrist": (0, 0, 255), "l_wrist": (0, 255, 0), "nose": (255, 0, 0)}


def dotted():
    """Return a photo of one person, who is three coloured dots, and their 3D as the dots lie."""
    rng = np.random.default_rng(0)
    joints = np.zeros((1, K, 3), np.float32)
    joints[0, :, :2] = rng.uniform((150, 60), (250, 260), (K, 2))
    joints[0, :, 2] = 2
    image = np.zeros((320, 400, 3), np.uint8)
    for name, colour in DOTS.items():
        x, y = joints[0, INDEX_2D[name], :2].round().astype(int)
        joints[0, INDEX_2D[name], :2] = x, y
        cv2.circle(image, (int(x), int(y)), 9, colour, -1)
    joints_m = np.full((1, J, 3), np.nan, np.float32)
    for j, k in enumerate(SHOWN_BY):
        if k >= 0:
            joints_m[0, j] = [*(joints[0, k, :2] / 100), rng.uniform(-1, 1)]
    low, high = joints[0, :, :2].min(0), joints[0, :, :2].max(0)
    box = np.array([[*low, *(high - low)]], np.float32)
    return photo(image, "dots", "test", joints, box_px=box, joints_m=joints_m,
                 weight_3d=np.ones((1, J), np.float32))  # fmt: skip


def drawer(photos, tmp_path, seed=0):
    patches.write(tmp_path / "patches", [(None, photos)])
    rng = torch.Generator().manual_seed(seed)
    return batch.Drawer(patches.read(tmp_path / "patches"), torch.device("cpu"), rng)


def test_joints_stay_on_their_pixels_however_a_portrait_is_turned(tmp_path):
    how = Variation(colour=False, half=0.0, turned_rad=0.5, turned_share=1.0)
    made = drawer([dotted()], tmp_path).take(48, how)
    checked = 0
    for image, joints in zip(made.images, made.joints_px):
        for name, colour in DOTS.items():
            x, y = joints[INDEX_2D[name]].round().long().tolist()
            if 2 < x < 93 and 2 < y < 125:
                got = 255 * image[:, y, x]
                # the wrists of somebody seen in the mirror have exchanged their names
                wanted = [colour] if name == "nose" else [DOTS["r_wrist"], DOTS["l_wrist"]]
                assert min((got - torch.tensor(c)).abs().max() for c in wanted) < 60
                checked += 1
    assert checked > 90


def test_maps_peak_at_the_joints_and_mirrored_people_exchange_sides(tmp_path):
    made = drawer([dotted()], tmp_path).take(64, Variation(colour=False, half=0.0))
    cells = ((made.joints_px - 1.5) / 4).round().long()
    inside = ((cells >= 0) & (cells < torch.tensor([24, 32]))).all(-1)
    n, k = inside.nonzero().T
    assert (made.heatmaps[n, k, cells[n, k, 1], cells[n, k, 0]] > 0.8).all()
    red = made.images[:, 2] - made.images[:, 1] > 0.5
    right = 0
    for image, joints in zip(red, made.joints_px):
        x, y = joints[INDEX_2D["r_wrist"]].round().long().tolist()
        right += bool(0 <= x < 96 and 0 <= y < 128 and image[y, x])
    assert 15 < right < 49  # the right wrist is the red one in about half of them
    assert MIRROR_2D[INDEX_2D["r_wrist"]] == INDEX_2D["l_wrist"]


def test_clues_show_the_joints_where_they_were_read_without_faults(tmp_path):
    exact = Faults(none=0, fewest=1, off_px=0, mirrored=0, swapped=0, strangers=0, invented=0)
    made = drawer([dotted()], tmp_path).take(64, Variation(half=0.0, faults=exact))
    there = made.heatmaps.amax((2, 3)) > 0.8
    alike = torch.cosine_similarity(made.clues[:, :K].flatten(2), made.heatmaps.flatten(2), 2)
    assert (alike[there] > 0.9999).all()
    told = Variation(half=0.0, faults=replace(exact, none=1, twice=0))
    assert drawer([dotted()], tmp_path / "again").take(64, told).clues.max() == 0


def test_clues_take_limbs_of_who_is_nearest_and_only_those_they_have():
    px, other = torch.full((400, K, 2), 20.0), torch.full((400, K, 2), 70.0)
    there = torch.ones(400, K, dtype=torch.bool)
    legless = there.clone()
    legless[:, [INDEX_2D["l_knee"], INDEX_2D["l_ankle"]]] = False
    how = Faults(none=0, fewest=1, off_px=0, mirrored=0, swapped=0, invented=0)
    maps = clues.simulated(px, there, other, legless, how, torch.Generator().manual_seed(0))
    maps, others = maps[:, :K], maps[:, K:]
    apart = (others[:, :, 17, 17].amax(1) > 0).float().mean().item()
    assert apart == pytest.approx(1 - how.alone, abs=0.06)
    assert others[:, INDEX_2D["l_knee"], 17, 17].max() < 0.01
    theirs = maps[:, :, 17, 17] > maps[:, :, 5, 5]
    share = theirs.float().mean(0)
    wanted = how.strangers * how.limbs
    assert share[INDEX_2D["nose"]].item() == pytest.approx(wanted, abs=0.06)
    assert share[[INDEX_2D["l_knee"], INDEX_2D["l_ankle"], INDEX_2D["neck"]]].max() == 0
    together = theirs[:, INDEX_2D["r_elbow"]] <= theirs[:, INDEX_2D["r_wrist"]]
    assert together.all()


def test_who_is_nearest_is_kept_with_a_patch(tmp_path):
    crowd = figures(4, 300, 200)
    patches.write(tmp_path / "patches", [(None, [dotted(), *crowd])])
    held = patches.read(tmp_path / "patches")
    assert (held.other_px[0] == 0).all()
    both = (held.other_px[..., 2] > 0).any(1)
    assert both.any()
    apart = np.abs(held.joints_px - held.other_px)[..., :2].max(2)
    assert (apart[both].max(1) > 5).all()


def test_a_sheet_says_what_portrait_and_clues_do():
    net = Portrait(0.25).eval()
    rng = np.random.default_rng(0)
    image = rng.integers(0, 255, (2, 128, 96, 3), np.uint8)
    told = rng.integers(0, 255, (2, 2 * K, 32, 24), np.uint8)
    sheet = sheets(image, told)
    for a, b in zip(unfolded(sheet), (image, told)):
        np.testing.assert_array_equal(a, b)
    with torch.no_grad():
        one = net.of_sheets(torch.from_numpy(sheet))
        x = torch.from_numpy(image).permute(0, 3, 1, 2) / 255
        two = net(x, torch.from_numpy(told) / 255)
        other = net(x, torch.zeros(2, 2 * K, 32, 24))
    for a, b in zip(one, two):
        torch.testing.assert_close(a, b)
    assert (one.places - other.places).abs().max() > 0


def test_in_the_mirror_clues_exchange_their_sides():
    from manypose.models.portraits import mirrored

    def shown(sheet):
        return {"heatmaps": unfolded(sheet)[1][:, part].astype(np.float32)}

    rng = np.random.default_rng(0)
    told = rng.integers(0, 255, (3, 2 * K, 32, 24), np.uint8)
    sheet = sheets(np.zeros((3, 128, 96, 3), np.uint8), told)
    for part in (slice(K), slice(K, None)):  # of the person, of others
        np.testing.assert_array_equal(mirrored(shown)(sheet)["heatmaps"], told[:, part])


def test_bones_turn_with_the_picture(tmp_path):
    how = Variation(colour=False, half=0.0, turned_rad=0.6, turned_share=1.0)
    made = drawer([dotted()], tmp_path).take(32, how)
    bones = made.bones.reshape(-1, J, 3)[:, INDEX["r_wrist"]] * BONE_UNIT_M
    shown = made.joints_px[:, INDEX_2D["r_wrist"]] - made.joints_px[:, INDEX_2D["r_elbow"]]
    assert (made.weight_bones.reshape(-1, J, 3)[:, INDEX["r_wrist"]] == 1).all()
    cosine = torch.nn.functional.cosine_similarity(bones[:, :2], shown)
    assert (cosine > 0.999).all()


def test_what_is_not_known_teaches_nothing_and_nobody_teaches_nothing_seen(tmp_path):
    someone = dotted()
    joints = someone.joints_px.copy()
    joints[0, INDEX_2D["nose"], 2] = 0
    known = np.ones(K, bool)
    known[INDEX_2D["head_top"]] = False
    half_known = photo(someone.picture, "a", "test", joints, box_px=someone.box_px, known=known)
    nobody = photo(np.full((100, 100, 3), 90, np.uint8), "b", "test")
    made = drawer([half_known, nobody], tmp_path).take(64, Variation(mirrored=False))
    weight, heat = made.weight, made.heatmaps.amax((2, 3))
    empty = heat.amax(1) == 0
    assert empty.any()
    assert (weight[empty] == 1).all()
    assert (weight[~empty][:, INDEX_2D["head_top"]] == 0).all()
    assert (weight[~empty][:, INDEX_2D["nose"]] < 0.2).all()
    assert made.weight_bones.sum() == 0


def test_patches_are_read_as_they_were_written_and_shares_decide_how_often(tmp_path):
    folder = tmp_path / "patches"
    sources = [(0.75, [dotted()]), (0.25, figures(4, 160, 120))]
    count = patches.write(folder, sources)
    held = patches.read(folder)
    assert len(held) == count > 5
    assert held.weight[0] == pytest.approx(0.75)
    assert held.weight.sum() == pytest.approx(1)
    (folder / patches.MANIFEST).write_text("{}")
    with pytest.raises(SourceError, match="holds no patches"):
        patches.read(folder)


def command(folder, *more):
    return ["train", "portraits", "--patches", str(folder / "patches"), "--val",
            f"pack:{folder / 'val'}", "--out", str(folder / "run"), "--batch", "16", "--width",
            "0.25", *more]  # fmt: skip


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    folder = tmp_path_factory.mktemp("portraits")
    packs.write_pack(iter(figures(6, 200, 150)), folder / "val")
    words = ["--data", f"pack:{folder / 'val'}", "--steps", "90", "--lr", "0.004"]
    assert main(command(folder, *words)) == 0
    return folder


@pytest.mark.slow
def test_drawn_people_are_learnt_by_heart(trained):
    net, about = loop.network(trained / "run" / "ema.pt")
    held = hold_out.HoldOut(list(packs.read_pack(trained / "val")))
    found = held.score(hold_out.of_network(net, torch.device("cpu")))
    assert found["AP"] > 0.5
    assert about["images"] == 90 * 16
    rows = list(csv.DictReader((trained / "run" / loop.TABLE).read_text().splitlines()))
    assert float(rows[-1]["AP"]) == pytest.approx(found["AP"], abs=0.02)
    for name in ("labels.jpg", "people.jpg"):
        assert cv2.imread(str(trained / "run" / name)) is not None


@pytest.mark.slow
def test_a_run_goes_on_where_it_was(trained, capsys):
    before = checkpoints.read(trained / "run" / checkpoints.LAST)
    assert main(command(trained, "--steps", "95", "--resume", "--lr", "0.004")) == 0
    after = checkpoints.read(trained / "run" / checkpoints.LAST)
    assert (before["step"], after["step"]) == (90, 95)
    assert main(command(trained, "--width", "0.375", "--resume", "--steps", "99")) == 5
    assert "of another network" in capsys.readouterr().err


@pytest.mark.slow
def test_a_backbone_of_stage_one_can_be_started_from(tmp_path):
    from manypose.models.heads import StageOne

    net = StageOne("selecsls42", 0.25)
    checkpoints.save_weights(tmp_path, net, {"backbone": "selecsls42", "width": 0.25})
    ours = Portrait(0.25)
    loop.start_from(ours, tmp_path / "ema.pt")
    for name, value in net.backbone.state_dict().items():
        assert torch.allclose(ours.backbone.state_dict()[name].float(), value.float(), atol=2e-3)


def test_a_wider_network_goes_on_from_a_narrow_one(tmp_path):
    torch.manual_seed(2)
    narrow = Portrait(0.125)
    for module in narrow.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.running_mean.normal_(0, 0.1)
            module.running_var.uniform_(0.5, 1.5)
    for last in (narrow.maps, narrow.seen, narrow.bones):
        torch.nn.init.normal_(last.weight, std=0.3)
    checkpoints.save_weights(tmp_path, narrow, {"kind": loop.KIND, "width": 0.125})
    wide = Portrait(0.2)
    loop.start_from(wide, tmp_path / "ema.pt")
    images, clues = torch.rand(2, 3, HEIGHT, WIDTH), torch.rand(2, CLUES, HEIGHT // 4, WIDTH // 4)
    with torch.no_grad():
        for a, b in zip(loop.network(tmp_path / "ema.pt")[0].eval()(images, clues),
                        wide.eval()(images, clues)):  # fmt: skip
            assert float(a.std()) > 0.01
            torch.testing.assert_close(a, b, atol=2e-3, rtol=2e-3)
    with pytest.raises(WeightsError, match="of another network"):
        loop.start_from(Portrait(0.0625), tmp_path / "ema.pt")


@pytest.mark.slow
def test_a_release_has_files_card_and_history(trained, monkeypatch):
    from manypose.models import portraits, quantise, sessions, weights
    from manypose.models.sessions import Wish

    monkeypatch.setattr(quantise, "SQNR_WANTED_DB", -100.0)
    out = trained / "out"
    words = ["train", "release", str(trained / "run" / "ema.pt"), "--name", "portrait", "--val",
             f"pack:{trained / 'val'}", "--calibrate", f"pack:{trained / 'val'}", "--out",
             str(out), "--trained-on", "drawn figures"]  # fmt: skip
    assert main(words) == 0
    card = (out / "portrait.md").read_text()
    for text in ("drawn figures", "| OKS AP, true boxes |", "0.25 of its width"):
        assert text in card
    history = list(csv.DictReader((out / "history.csv").read_text().splitlines()))
    assert {Path(r["file"]).suffix for r in history} >= {".onnx"}
    monkeypatch.setattr(weights, "known", lambda: weights.manifest(out))
    item = next(iter(packs.read_pack(trained / "val")))
    image = np.asarray(packs.decoded(item).picture)
    h = item.box_px[0][3]
    truth = item.joints_px[0]
    for engine in ("onnx", "openvino", "torch"):
        program = portraits.load_portraits(engine, "cpu", 1, "fp32")
        here = Person2D(truth[:, :2], 0.5 * (truth[:, 2] > 0), 0.5)
        found = program.look(image, [here], *image.shape[1::-1])[0]
        error = np.linalg.norm(found.joints_px - truth[:, :2], axis=1)[truth[:, 2] > 0]
        assert np.nanmedian(error) < 0.05 * h, engine
    shown = hold_out.HoldOut([item]).sheets().repeat(5, 0)
    shown[1:] += np.arange(1, len(shown), dtype=np.uint8)[:, None, None, None]
    three = sessions.open_session(out / "portrait.onnx", "openvino", Wish("cpu", 1, together=3))
    one = sessions.open_session(out / "portrait.onnx", "openvino", Wish("cpu", 1))
    for a, b in zip(three.run(shown).values(), one.run(shown).values(), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-4)
