"""`codetr bench step`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from codetr.bench.step import alone, batches
from codetr.bench.step.subjects import WITH, WITHOUT
from codetr.cli.main import main

SPEC = """
extends: [bases/deformable_detr_pp, backbones/resnet50]
base: {num_queries: 24, encoder_layers: 1, decoder_layers: 1, num_heads: 2, num_points: 2, ffn_dim: 16}
backbone: {model: resnet10t, pretrained: false, frozen_stages: -1, options: {channels: [8, 8, 8, 8], stem_width: 8}}
neck: {dim: 32, num_groups: 4, num_levels: 3}
heads: {atss: {}}
data: {resize: {size: 64, max_size: 96}}
train: {batch_size: 16, device: cpu, threads: 1, milestones: []}
"""


@pytest.fixture
def tiny(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A spec; memory is not measured, for that takes a process each."""
    monkeypatch.setattr(
        alone, "measure_alone", lambda request: {"peak_memory": 2**20 * (1 + request.spec.train.epochs)}
    )
    (tmp_path / "tiny.yaml").write_text(SPEC)
    return str(tmp_path / "tiny.yaml")


def bench(*arguments: str) -> int:
    return main(["bench", "step", *arguments])


def test_a_run(tiny: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "out.json"
    assert bench(tiny, "train.epochs=3", "--steps", "2", "--warmup", "1", "--json", str(file)) == 0
    shown = capsys.readouterr().out
    assert "rendered images of 64 x 96, in memory" in shown
    assert f"{tiny}: a step of 2 images, fp32; milliseconds, mean of 2 steps" in shown
    assert "with / without" in shown
    for part in ("backbone", "encoder", "head atss", "decoder", "matching", "losses", "backward", "rest", "images/s"):
        assert f"│ {part}" in shown
    found = json.loads(file.read_text())
    assert [subject["name"] for subject in found["subjects"]] == [WITHOUT, WITH]
    for subject in found["subjects"]:
        assert sum(subject["parts"].values()) == pytest.approx(subject["mean"])
        assert subject["peak_memory"] == 4 * 2**20
        assert subject["times"]["runs"] == 2
    assert found["settings"]["size"] == [64, 96]
    assert found["spec"]["train"]["batch_size"] == 2
    assert found["machine"]["packages"]["torch"]


def test_options_are_settings_of_the_spec(tiny: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "out.json"
    options = ["--size", "64x64", "--batch-size", "4", "--precision", "bf16", "--device", "cpu", "--steps", "1"]
    assert bench(tiny, "heads={}", "train.accumulate=2", *options, "--json", str(file)) == 0
    shown = capsys.readouterr().out
    assert "a step of 4 images in 2 pieces, bf16; milliseconds, mean of 1 step\n" in shown
    assert "The spec has no heads: there is nothing to compare it with." in shown
    found = json.loads(file.read_text())
    train: dict[str, Any] = found["spec"]["train"]
    assert (train["batch_size"], train["precision"], train["device"]) == (4, "bf16", "cpu")
    assert [subject["name"] for subject in found["subjects"]] == [WITHOUT]
    assert found["ratios_to_without_heads"] == {}


def test_the_data_of_the_spec_unless_a_size_is_given(tiny: str, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[object] = []

    def opened(spec: Any, size: object, *, pinned: bool) -> None:
        asked.append((size, spec.train.batch_size))
        raise KeyError("seen enough")

    monkeypatch.setattr(batches, "open_source", opened)
    for given in (["data.dir=pictures"], ["data.dir=pictures", "--size", "32x64"], ["train.batch_size=3"], []):
        with pytest.raises(KeyError, match="seen enough"):
            bench(tiny, *given)
    assert asked == [(None, 16), ((32, 64), 2), ((64, 96), 3), ((64, 96), 2)]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--size", "800"], "'800' is no size. Write height and width in pixels"),
        (["--size", "8x64"], "32 to 4096 each, such as 800x1333"),
        (["--size", "5000x64"], "32 to 4096 each"),
        (["--steps", "0"], "Invalid value for '--steps'"),
        (["--device", "cuda:77"], "PyTorch sees"),
        (["--peer", "detectron2"], "'detectron2' is not 'transformers'"),
        (
            ["--peer", "transformers"],
            "--peer transformers: it cannot build a backbone with backbone.options of channels",
        ),
        (["train.batch_size=3", "train.accumulate=2"], "3 images cannot be divided into train.accumulate=2 pieces"),
        (["data.dir=nowhere"], "nowhere"),
    ],
)
def test_what_cannot_be_used(tiny: str, arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert bench(tiny, *arguments) == 2
    assert message in capsys.readouterr().err
