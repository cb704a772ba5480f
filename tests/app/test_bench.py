from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from manypose.app import bench, bench_people
from manypose.app.config import Config
from manypose.app.main import main
from manypose.app.pipeline import Engine, lifting
from manypose.pose.detector import Detector
from manypose.pose.estimator import FollowerConfig
from manypose.pose.grouping import GroupingConfig, group

pytest.importorskip("onnxruntime")


@pytest.fixture(scope="module")
def network(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A small random Stage I, as a file."""
    torch = pytest.importorskip("torch")
    export = pytest.importorskip("manypose.models.export")
    from manypose.models.heads import StageOne

    path = tmp_path_factory.mktemp("bench") / "tiny.onnx"
    torch.manual_seed(0)
    export.export_onnx(StageOne("selecsls42", 0.125).eval(), path, 80, 128, "tiny")
    return str(path)


def _bench(capsys: pytest.CaptureFixture[str], *words: str) -> dict[str, object]:
    assert main(["bench", "--json", "--frames", "100", "--threads", "1", *words]) == 0
    report = json.loads(capsys.readouterr().out)
    assert next(iter(report)) == "fps"
    return dict(report)


@pytest.mark.slow
def test_generated_people_go_through_every_stage(
    network: str, capsys: pytest.CaptureFixture[str]
) -> None:
    report = _bench(
        capsys, "--people", "2", "4", "--size", "320x200", "--model", network,
        "--backend", "onnx", "--device", "cpu", "--batch", "2",
    )  # fmt: skip
    runs = report["runs"]
    assert isinstance(runs, list)
    assert [r["people"] for r in runs] == [2, 4]
    for run in runs:
        assert run["people_per_frame"] == pytest.approx(run["people"], abs=0.2)
        assert run["frames"] == 100
        assert set(run["stages_ms"]) == set(bench.STAGES) - {"detect"}
        for row in run["stages_ms"].values():
            assert 0 <= row["p50"] <= row["p95"] <= row["p99"]
        assert run["cpu_ms_per_frame"] > 0
    assert report["fps"] == runs[0]["fps"]
    assert report["mode"] == "recorded"
    assert report["batch"] == 2
    machine, net = report["machine"], report["network"]
    assert isinstance(machine, dict)
    assert isinstance(net, dict)
    assert {"cpu", "flags", "cores", "load_average"} <= set(machine)
    assert (net["precision"], net["device"], net["threads"]) == ("fp32", "cpu", 1)


@pytest.mark.slow
def test_live_says_latency_and_drops(
    network: str, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    people = bench_people.walkers(1, 128, 80)
    bench_people.write_clip(tmp_path / "w.mp4", people, 60, 120)
    report = _bench(
        capsys, str(tmp_path / "w.mp4"), "--live", "--model", network, "--backend", "onnx",
        "--device", "cpu",
    )  # fmt: skip
    assert report["mode"] == "live"
    (run,) = report["runs"]  # type: ignore[misc]
    assert run["latency_ms"]["p50"] > 0
    assert "decode" not in run["stages_ms"]
    assert run["fps"] < 130


@pytest.mark.slow
def test_live_one_person_is_looked_at_alone_and_many_are_not(
    network: str, capsys: pytest.CaptureFixture[str]
) -> None:
    report = _bench(
        capsys, "--live", "--people", "1", "4", "--size", "320x200", "--rate", "30", "--model",
        network, "--backend", "onnx", "--device", "cpu",
    )  # fmt: skip
    one, many = report["runs"]  # type: ignore[misc]
    assert one["people_per_frame"] > 0.9
    assert one["stages_ms"]["look"]["p50"] > 5 * many["stages_ms"]["look"]["p50"]


def test_the_report_reads_well() -> None:
    row = {"p50": 1.0, "p95": 2.0, "p99": 3.0, "mean": 1.2}
    run = {
        "fps": 31.4, "frames": 300, "people_per_frame": 5.0, "cpu_ms_per_frame": 40.0, "people": 5,
        "latency_ms": None, "dropped": {}, "stages_ms": {"network": row, "draw": row},
    }  # fmt: skip
    net = {"model": "full", "precision": "int8", "input_size": [512, 320], "engine": "E",
           "device": "cpu", "threads": 2}  # fmt: skip
    text = bench._text({
        "fps": 31.4, "mode": "recorded", "source": "clip.mp4", "runs": [run], "network": net,
        "batch": 2, "machine": bench.machine(),
    })  # fmt: skip
    assert text.startswith("31.4 frames/s end to end")
    assert "not in frames/s" in text


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--frames", "99"], "fewer than 100"),
        (["--people", "0"], "between 1 and 20"),
        (["--people", "21"], "between 1 and 20"),
        (["clip.mp4", "--people", "3"], "leave out"),
        (["--batch", "-1"], "--batch"),
    ],
)
def test_mistakes_are_said_before_anything_is_loaded(
    words: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["bench", *words]) == 2
    assert said in capsys.readouterr().err


@pytest.mark.parametrize("live", [[], ["--live"]])
def test_a_file_that_is_not_there_is_said_before_anything_is_loaded(
    live: list[str], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bench, "load_engine", lambda *_, **__: pytest.fail("loaded"))
    assert main(["bench", "nowhere.mp4", *live]) == 4
    assert "nowhere.mp4" in capsys.readouterr().err


@pytest.mark.parametrize("wanted", [False, True])
def test_people_are_lifted_as_the_settings_say(wanted: bool) -> None:
    config = Config(fit=replace(Config().fit, encodings=wanted))
    engine = Engine(Detector(lambda _: [], lifting(config)), FollowerConfig())
    engine.detector.front_end.network = None  # type: ignore[attr-defined]
    engine = replace(engine, info={"input_size": (128, 80)})
    detector = bench_people.walking_detector(config, 1, 1, 128, 80, engine)
    (maps,) = {m.encodings is not None for m in detector.front_end._maps}  # type: ignore[attr-defined]
    assert maps is wanted
    assert detector._lift.keywords["config"].encodings is wanted  # type: ignore[attr-defined]


@pytest.mark.parametrize("count", [1, 5, pytest.param(20, marks=pytest.mark.slow)])
def test_the_maps_of_the_walkers_hold_so_many_people(count: int) -> None:
    people = bench_people.walkers(count, 640, 400)
    outputs = bench_people.perfect_maps(people, 512, 320)
    assert len(outputs) == bench_people.PERIOD
    for output in outputs[::16]:
        found = group(output, GroupingConfig())
        assert len(found) == count
        # The wrist is where the walker's is, in picture px.
        px = people.camera.camera_to_image(people.points_m[outputs.index(output), :, 4])
        seen = np.array([p.joints_px[10] for p in found])
        seen = seen[np.isfinite(seen).all(1)]
        gaps = np.linalg.norm(seen[:, None] - px[None], axis=-1).min(1)
        assert np.median(gaps) < 1.5
