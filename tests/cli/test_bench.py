"""`codetr bench kernels`."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from codetr.bench import compiled, measuring, problems
from codetr.bench.problems import Problem
from codetr.cli.main import main


@pytest.fixture
def tiny(monkeypatch: pytest.MonkeyPatch) -> str:
    """The name of a problem that takes no time."""
    import torch

    problem = Problem("tiny", ((5, 11), (3, 6)), 2, 7, torch.float32, heads=2, channels=4)
    monkeypatch.setattr(problems, "small_problems", lambda: [problem])
    return problem.name


def bench(*arguments: str) -> int:
    return main(["bench", "kernels", *arguments])


def test_a_run_on_a_cpu(tiny: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out, chart = tmp_path / "out.json", tmp_path / "out.png"
    options = ["--device", "cpu", "--quick", "--without", "compiled", "--json", str(out), "--chart", str(chart)]
    assert bench("--problem", tiny, *options) == 0
    shown = capsys.readouterr().out
    assert "the CPU paths are timed" in shown
    assert "original-style  absent: it runs on a GPU alone" in shown
    record = json.loads(out.read_text())
    rows = {(row["chain"], row["candidate"]): row for row in record["rows"]}
    assert {chain for chain, _ in rows} == {"op", "whole"}
    ours = rows["whole", "codetr"]
    assert ours["status"] == "timed"
    assert set(ours["errors"]) == {"output", "value", "references", "offsets", "logits"}
    assert 0 < ours["forward"]["median"] <= ours["forward"]["p95"]
    assert record["machine"]["packages"]["torch"]
    assert record["ceilings"]["copy"] > 0
    assert chart.read_bytes().startswith(b"\x89PNG")


def test_a_wrong_result_of_ours_is_exit_code_1(tiny: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def run(*arguments: object, **options: object) -> Iterator[measuring.Row]:
        yield measuring.Row(tiny, "op", "codetr", "wrong", "output: error 1")

    monkeypatch.setattr(measuring, "run", run)
    assert bench("--problem", tiny, "--device", "cpu", "--quick", "--without", "compiled") == 1


def test_listing(capsys: pytest.CaptureFixture[str]) -> None:
    assert bench("--list", "--device", "cpu") == 0
    shown = capsys.readouterr().out
    assert "* small-encoder-fp32 " in shown
    assert "  encoder-l4-b2-bf16       2 x 22223 queries, 22223 tokens, 4 levels\n" in shown


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--problem", "encoder-l4-b3-fp32"], "did you mean 'encoder-l4-b"),
        (["--device", "cuda:77"], "--device cuda:77: PyTorch sees "),
        (["--device", "gpu"], "--device gpu: no device is called so"),
        (["--device", "cpu", "--tune"], "--tune measures on a GPU"),
        (["--target", "sm_90"], "--target: only with --compile-only"),
        (["--against", "mmcv"], "--against: only with --chart"),
        (["--compile-only", "--quick", "--tune"], "--quick and --tune: not with --compile-only"),
        (["--compile-only", "--target", "sm_8"], "--target sm_8: not supported; did you mean 'sm_80'?"),
        (["--device", "cpu", "--chart", "x.png", "--against", "you"], "--against you: nobody of that name"),
        (["--peer", "nonsense"], "--peer nonsense: write MODULE:FUNCTION"),
    ],
)
def test_what_cannot_be_used(arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert bench(*arguments) == 2
    assert message in capsys.readouterr().err


ROW: dict[str, Any] = {
    "name": "forward/16-bit/d32/many", "target": "sm_90", "registers": 48, "spills": 0, "shared": 0,
    "gather_bytes": 16, "atomics": {"red.global.add.v4.f32": 4},
    "config": {"block_q": 32, "num_warps": 4, "unroll": 1, "tile_w": 0}, "instructions_per_point": 188.6,
}  # fmt: skip


def test_compiling_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    asked: list[object] = []
    monkeypatch.setattr(compiled, "compile_for", lambda targets: [asked.append(targets) or ROW])
    assert bench("--compile-only", "--target", "sm_90,gfx942", "--json", str(tmp_path / "rows.json")) == 0
    assert asked == [("sm_90", "gfx942")]
    cells = [cell.strip() for cell in capsys.readouterr().out.splitlines()[-2].strip("│|").split("│")]
    expected = ["forward/16-bit/d32/many", "sm_90", "32, 4, 1, 0", "48", "0", "0", "16 B", "189"]
    assert cells == [*expected, "4 red.global.add.v4.f32"]
    assert json.loads((tmp_path / "rows.json").read_text()) == [ROW]


def test_a_kernel_compiled_for_a_gpu_that_is_not_there() -> None:
    pytest.importorskip("triton")
    from codetr_kernels.backend import interpreted

    if interpreted():
        pytest.skip("what is interpreted is not compiled")
    (row,) = compiled.compile_for(["sm_90"], keys=["forward/32-bit/d32/few"])
    assert row["target"] == "sm_90"
    assert row["spills"] == 0
    assert row["registers"] > 0
    assert set(row["config"]) == {"block_q", "num_warps", "unroll", "tile_w"}
