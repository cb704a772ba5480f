import csv

import numpy as np
import onnx
import pytest
import torch

from manypose.app.main import main
from manypose.errors import WeightsError
from manypose.models.portrait import Portrait
from manypose.models.train import checkpoints, packs
from manypose.models.train.figures import figures
from manypose.models.train.portraits import loop
from manypose.models.train.portraits.guide import Guide, open_teacher
from manypose.pose.portraits import CLUES, HEIGHT, WIDTH

TOML = """
[pose]
kind = "heatmap"
file = "pose.onnx"
input = [192, 256]
std = [255, 255, 255]
[detector]
kind = "dets"
file = "pose.onnx"
input = [192, 256]
"""
LAYERS = ["fine", "coarse"]


@pytest.fixture
def described(tmp_path):
    """A network of three operations: means over 8 px, over 32 px, and 17 equal maps."""
    pytest.importorskip("openvino")
    pick = onnx.numpy_helper.from_array(np.full((17, 3, 1, 1), 1 / 3, np.float32), "pick")
    nodes = [
        onnx.helper.make_node("AveragePool", ["x"], ["a"], "fine", kernel_shape=[8, 8],
                              strides=[8, 8]),
        onnx.helper.make_node("AveragePool", ["a"], ["b"], "coarse", kernel_shape=[4, 4],
                              strides=[4, 4]),
        onnx.helper.make_node("Conv", ["b", "pick"], ["maps"], "last"),
        onnx.helper.make_node("Flatten", ["maps"], ["row"], "flat"),
    ]  # fmt: skip
    x = onnx.helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, ["n", 3, 256, 192])
    maps = onnx.helper.make_tensor_value_info("maps", onnx.TensorProto.FLOAT, ["n", 17, 8, 6])
    row = onnx.helper.make_tensor_value_info("row", onnx.TensorProto.FLOAT, ["n", 816])
    graph = onnx.helper.make_graph(nodes, "g", [x], [maps, row], [pick])
    opset = [onnx.helper.make_opsetid("", 17)]
    model = onnx.helper.make_model(graph, opset_imports=opset, ir_version=8)
    onnx.save(model, str(tmp_path / "pose.onnx"))
    (tmp_path / "own.toml").write_text(TOML)
    return tmp_path / "own.toml"


def test_a_teacher_is_shown_portraits_as_it_wants_them_and_answers_its_layers(described):
    images = torch.nn.functional.interpolate(torch.rand(3, 3, 8, 6), size=(HEIGHT, WIDTH))
    fine, coarse = open_teacher(described, LAYERS)(images)
    wanted = torch.nn.functional.avg_pool2d(images.flip(1), 4)
    torch.testing.assert_close(fine, wanted, atol=0.06, rtol=0)  # bicubic edges, bfloat16
    torch.testing.assert_close(coarse, torch.nn.functional.avg_pool2d(wanted, 4), atol=0.03, rtol=0)
    (again,) = open_teacher(described, ["coarse"])(images[:1])
    torch.testing.assert_close(again, coarse[:1], atol=0.01, rtol=0)
    with pytest.raises(WeightsError, match="has no layer nothing"):
        open_teacher(described, ["nothing"])
    with pytest.raises(WeightsError, match="row answers no maps"):
        open_teacher(described, ["fine", "row"])(images)


def test_the_network_comes_to_answer_what_its_teacher_does_where_somebody_is(described):
    torch.manual_seed(0)
    net = Portrait(0.25)
    guide = Guide(open_teacher(described, LAYERS), net, torch.device("cpu"))
    optimizer = torch.optim.AdamW(net.parameters(), 2e-3)
    images = torch.nn.functional.interpolate(torch.rand(8, 3, 8, 6), size=(HEIGHT, WIDTH))
    somebody = torch.arange(8) < 6
    clues = torch.zeros(8, CLUES, 32, 24)
    before = net.smooth8[0].weight.detach().clone()
    losses = []
    for _ in range(12):
        net(images, clues)
        loss = guide.loss(images, somebody)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        guide.step()
        losses.append(loss.item())
    assert losses[0] < 2, "channels are even, whatever the teacher's are"
    assert losses[-1] < 0.7 * losses[0]
    assert (net.smooth8[0].weight != before).any()
    net(images, clues)
    assert guide.loss(images, torch.zeros(8, dtype=torch.bool)) == 0


@pytest.mark.slow
def test_a_run_is_taught_goes_on_and_says_what_is_missing(described, tmp_path, capsys):
    packs.write_pack(iter(figures(4, 200, 150)), tmp_path / "people")
    words = ["train", "portraits", "--data", f"pack:{tmp_path / 'people'}", "--out",
             str(tmp_path / "run"), "--batch", "8", "--width", "0.25"]  # fmt: skip
    taught = ["--teacher", str(described), "--teacher-layers", *LAYERS]
    assert main([*words, *taught, "--steps", "6"]) == 0
    (row,) = csv.DictReader((tmp_path / "run" / loop.TABLE).read_text().splitlines())
    assert float(row["teacher"]) > 0
    before = checkpoints.read(tmp_path / "run" / checkpoints.LAST)["guide"]["between"]
    assert main([*words, *taught, "--steps", "12", "--resume"]) == 0
    after = checkpoints.read(tmp_path / "run" / checkpoints.LAST)["guide"]["between"]
    assert all((before[k] != after[k]).any() for k in before)
    assert main([*words, *taught[:-1], "--steps", "13", "--resume"]) == 5
    assert "another network" in capsys.readouterr().err
    assert main([*words, "--teacher", str(described)]) == 2
    assert "go together" in capsys.readouterr().err
    assert main([*words, *taught, "nothing"]) == 5
    assert "no layer nothing" in capsys.readouterr().err
