"""`codetr convert`: the account of every tensor, and what is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from codetr.cli.main import main
from codetr.engine.checkpoint import Meta
from codetr.weights import convert
from codetr.weights.conversion import Conversion, Entry
from codetr.weights.convert import Converted


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """What was asked of the conversion, which has class names if `asked["named"]` says so."""
    asked: dict[str, Any] = {"named": True}
    entries = [
        Entry("backbone.conv1.weight", "mapped", "base.backbone.net.conv1.weight"),
        Entry("backbone.bn1.num_batches_tracked", "dropped", "bookkeeping of batch norm"),
        Entry("bbox_head.0.atss_cls.bias", "dropped", "serves training only"),
    ]

    def convert_checkpoint(source: Path, output: Path, **options: Any) -> Converted:
        asked.update(source=source, output=output, **options)
        return Converted(Conversion({}, entries), Meta(("cat", "dog"), (1, 2), {}), asked["named"])

    monkeypatch.setattr(convert, "convert_checkpoint", convert_checkpoint)
    return asked


def test_every_tensor_is_accounted_for(asked: dict[str, Any], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["convert", "a.pth", "-o", "b.safetensors"]) == 0
    written = capsys.readouterr()
    assert written.out.splitlines() == [
        "mapped   backbone.conv1.weight -> base.backbone.net.conv1.weight",
        "dropped  backbone.bn1.num_batches_tracked : bookkeeping of batch norm",
        "dropped  bbox_head.0.atss_cls.bias : serves training only",
        "3 tensors: 1 mapped, 2 dropped, 0 unmatched",
        "wrote b.safetensors (2 classes)",
    ]
    assert written.err == ""


def test_the_summary_alone(asked: dict[str, Any], capsys: pytest.CaptureFixture[str]) -> None:
    asked["named"] = False
    assert main(["convert", "a.pth", "-o", "b.safetensors", "--quiet"]) == 0
    written = capsys.readouterr()
    assert len(written.out.splitlines()) == 2
    assert written.err == "class names are numbers: give --annotations FILE to name them\n"


def test_arguments(asked: dict[str, Any]) -> None:
    assert main(["convert", "a.pth", "-o", "b.safetensors"]) == 0
    assert asked["spec"] is None and asked["overrides"] == () and asked["annotations"] is None
    line = ["convert", "a.pth", "heads={}", "neck.bias=true", "-o", "b.safetensors", "--spec", "x.yaml"]
    assert main([*line, "--annotations", "c.json"]) == 0
    assert (asked["source"], asked["output"], asked["spec"]) == (Path("a.pth"), Path("b.safetensors"), "x.yaml")
    assert (asked["overrides"], asked["annotations"]) == (("heads={}", "neck.bias=true"), Path("c.json"))


def test_the_output_is_safetensors(asked: dict[str, Any], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["convert", "a.pth", "-o", "b.pth"]) == 2
    assert capsys.readouterr().err == "error: b.pth: the output is a .safetensors file; try b.safetensors\n"
    assert "source" not in asked


@pytest.mark.parametrize(
    ("content", "spec", "message"),
    [
        (None, "co_deformable_r50", "x.pth: no such file\n"),
        (b"hello", "co_deformable_r50", "x.pth: not a checkpoint that can be read: it is damaged, was cut short, or"),
        (
            {"a": torch.ones(1)},
            "co_deformable_r50",
            "tensors named such as a are of no known layout; known are: Co-D",
        ),
        ({"a": torch.ones(1)}, "co_deformable_r5", "'co_deformable_r5'; did you mean 'co_deformable_r50'?\n"),
        (
            {"stray": torch.ones(1), "query_head.cls_branches.0.bias": torch.ones(80)},
            "co_deformable_r50",
            "tensors do not fit the spec:\n  stray: no tensor of this kind in the model\n",
        ),
    ],
)
def test_mistakes(tmp_path: Path, content: object, spec: str, message: str, capsys: pytest.CaptureFixture[str]) -> None:
    file, output = tmp_path / "x.pth", tmp_path / "out.safetensors"
    if isinstance(content, bytes):
        file.write_bytes(content)
    elif content is not None:
        torch.save({"state_dict": content}, file)
    assert main(["convert", str(file), "-o", str(output), "--spec", spec]) == 2
    written = capsys.readouterr()
    assert written.err.startswith("error: ") and written.err.count("error: ") == 1 and message in written.err
    assert written.out == "" and not output.exists()
