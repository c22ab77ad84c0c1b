"""`codetr bench eval`."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from codetr.cli.main import main

SPEC = """
extends: [bases/deformable_detr_pp, backbones/resnet50]
base: {num_queries: 24, encoder_layers: 1, decoder_layers: 1, num_heads: 2, num_points: 2, ffn_dim: 16}
backbone: {model: resnet10t, pretrained: false, frozen_stages: -1, options: {channels: [8, 8, 8, 8], stem_width: 8}}
neck: {dim: 32, num_groups: 4, num_levels: 3}
data: {resize: {size: 64, max_size: 96}}
"""


@pytest.fixture
def tiny(tmp_path: Path) -> str:
    (tmp_path / "tiny.yaml").write_text(SPEC)
    return str(tmp_path / "tiny.yaml")


def bench(*arguments: object) -> int:
    return main(["bench", "eval", *map(str, arguments), "--device", "cpu"])


def test_parts_add_up_and_every_subject_detects_as_much(
    tiny: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "out.json"
    options = ("--images", 3, "--batch", 2, "--rounds", 2, "--scored", 20, "--peer", "pycocotools")
    assert bench(tiny, "eval.max_detections=30", *options, "--json", file) == 0
    shown = capsys.readouterr().out
    assert "3 images, short side 64, at most 96, fp32; median of 2 rounds" in shown
    for part in ("reading", "resizing", "backbone", "encoder", "decoder", "post-processing", "rest", "images/s"):
        assert f"│ {part}" in shown
    found = json.loads(file.read_text())
    assert [(one["name"], one["batch"]) for one in found["detection"]] == [("one by one", 1), ("codetr", 2)]
    for one in found["detection"]:
        assert sum(one["parts"].values()) == pytest.approx(one["mean"]) and one["mean"] in one["rounds"]
        assert one["detections"] == 3 * 30 and one["images_per_second"] == pytest.approx(1000 / one["mean"])
    first, second = found["scoring"]
    assert (first["evaluator"], second["evaluator"]) == ("hotcoco", "pycocotools")
    assert first["AP"] == pytest.approx(second["AP"], abs=1e-6) and first["AP"] > 0.05
    assert first["detections"] == 20 * 100 and first["objects"] == 146


def test_test_time_augmentation_has_parts_of_its_own(tiny: str, capsys: pytest.CaptureFixture[str]) -> None:
    options = ("--images", 2, "--batch", 1, "--rounds", 1, "--scored", 0)
    assert bench(tiny, "eval.test_time={scales: [32, 48]}", *options) == 0
    shown = capsys.readouterr().out
    assert "4 passes, short sides 32, 48, fused by wbf" in shown and "│ fusion" in shown
    assert "scoring" not in shown


def test_pictures_of_a_folder(tiny: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert bench(tiny, "--pictures", tmp_path, "--images", 2) == 2
    assert f"{tmp_path}: 0 images (.jpg, .png) that can be read, not 2" in capsys.readouterr().err
    assert bench(tiny, "x", "--images", 2) == 2
    assert "one run, checkpoint or spec at a time" in capsys.readouterr().err
