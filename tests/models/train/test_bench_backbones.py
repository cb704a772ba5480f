import csv

import pytest

from manypose.app.main import main
from manypose.errors import UsageError
from manypose.models.train import backbone_report, bench_backbones


@pytest.fixture(scope="module")
def rows():
    networks = ["espnet", "resnet50", "resnet50_res5a"]
    engines = ["eager", "onnx"]
    return bench_backbones.measure(networks, "64x64", 1, engines, 1, "cpu", "cpu", 1)


def test_every_engine_has_a_row_per_network_with_ratios(rows):
    assert [(r.engine, r.network) for r in rows] == [
        (e, n) for e in ("eager", "onnx") for n in ("espnet", "resnet50", "resnet50_res5a")
    ]
    for r in rows:
        assert r.ms > 0
        assert r.gmacs > 0
        assert r.training_mb > r.inference_mb
        other = next(o for o in rows if o.engine == r.engine and o.network == "resnet50")
        assert r.to_layer3 == pytest.approx(other.ms / r.ms, abs=1e-3)
        assert r.to_whole is None


def test_tables_history_and_plot_are_written(rows, tmp_path):
    page = tmp_path / "speed.md"
    page.write_text(f"before\n{backbone_report.BEGIN}\nold\n{backbone_report.END}\nbehind\n")
    backbone_report.renew_table(page, rows)
    text = page.read_text()
    assert text.startswith("before\n")
    assert text.endswith("\nbehind\n")
    assert "old" not in text
    assert "| resnet50_res5a | 14.58 |" in text
    history = tmp_path / "history.csv"
    backbone_report.write_csv(history, rows)
    backbone_report.write_csv(history, rows)
    with history.open() as file:
        assert [r["network"] for r in csv.DictReader(file)] == [r.network for r in rows] * 2
    history.write_text("a,b\n")
    with pytest.raises(UsageError, match="no history"):
        backbone_report.write_csv(history, rows)
    drawing = tmp_path / "plot.png"
    backbone_report.plot(drawing, rows)
    assert drawing.read_bytes().startswith(b"\x89PNG")
    assert {p.name for p in tmp_path.iterdir()} == {"speed.md", "history.csv", "plot.png"}


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--networks", "resnet51"], "resnet50_res5a"),
        (["--networks", "espnet:whole"], "NAME:whole"),
        (["--engines", "magic"], "openvino"),
        (["--sizes", "100x100"], "multiples"),
        (["--batches", "0"], "1 or more"),
        (["--clock", "sun"], "wall"),
        (["--table", "missing.md"], "<!--"),
    ],
)
def test_wrong_use_is_told_before_anything_is_measured(words, said, capsys, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    assert main(["bench", "backbones", *words]) == 2
    assert said in capsys.readouterr().err
