"""`codetr bench kernels`."""

from __future__ import annotations

import importlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from codetr.bench import compiled, measuring, problems, report
from codetr.bench.assignment import measuring as assignment
from codetr.bench.compiled import OPS
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


def test_several_operations_make_one_document_and_one_picture(
    tiny: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out, chart = tmp_path / "out.json", tmp_path / "out.png"
    options = ["--device", "cpu", "--quick", "--problem", tiny, "--problem", "assignment-14x20x300"]
    assert bench(*options, "--without", "transformers", "--json", str(out), "--chart", str(chart)) == 0
    shown = capsys.readouterr().out
    assert "is left out; --with compiled measures it" in shown
    assert "assignment-14x20x300: 14 problems of 20 objects and 300 queries" in shown
    rows = json.loads(out.read_text())["rows"]
    assert [row["op"] for row in rows if row["candidate"] == "codetr"] == [OPS[0], OPS[0], "linear_assignment"]
    ours = rows[[row.get("case") for row in rows].index("assignment-14x20x300")]
    assert (ours["status"], ours["peer"]) == ("timed", "scipy")
    assert 0 < ours["forward"]["median"] <= ours["forward"]["p95"]
    assert ours["forward_ratio"] > 0
    assert chart.read_bytes().startswith(b"\x89PNG")


def test_an_operation_alone(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    chart = tmp_path / "out.png"
    assert bench("--device", "cpu", "--quick", "--op", "linear_*", "--chart", str(chart)) == 0
    shown = capsys.readouterr().out
    assert "small-encoder" not in shown
    assert "assignment-14x100x300-ties" in shown
    assert chart.is_file()


@pytest.mark.parametrize("status", ["wrong", "failed"])
def test_a_defect_of_another_operation_is_exit_code_1(status: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def run(cases: list[Any], *arguments: object, **options: object) -> Iterator[list[assignment.Row]]:
        yield [assignment.Row(cases[0].op, cases[0].name, "codetr", status, "scipy", "total")]

    monkeypatch.setattr(assignment, "run", run)
    assert bench("--op", "linear_assignment", "--device", "cpu", "--quick") == 1


def test_listing(capsys: pytest.CaptureFixture[str]) -> None:
    assert bench("--list", "--device", "cpu") == 0
    shown = capsys.readouterr().out
    assert "* small-encoder-fp32 " in shown
    assert "  encoder-l4-b2-bf16       2 x 22223 queries, 22223 tokens, 4 levels\n" in shown
    assert "\nnms:\n* batched_nms-rpn-2x17000 " in shown
    assert "\n  batched_nms-classes-2x80000 " in shown
    assert [line[:-1] for line in shown.splitlines() if line.endswith(":")] == list(OPS)
    assert bench("--list", "--device", "cpu", "--op", "boxes", "--problem", "ciou*") == 0
    shown = capsys.readouterr().out
    assert [line.split()[1] for line in shown.splitlines() if line.startswith("* ciou")] == ["ciou_loss-10000"]
    assert shown.count("\n* ") == 2  # that, and what the star means


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
        (["--op", "nsm"], "--op nsm: no operation is called so; did you mean 'nms'?"),
        (["--op", "nms", "--problem", "atss*"], "--problem atss*: no problem is called so"),
        (["--op", "nms", "--op", "boxes", "--problem", "giou*"], "--op nms: none of --problem giou* is of it"),
        (["--op", "nms", "--peer", "my.module:op"], "--peer: not with operations other than deform_attention"),
        (["--op", "nms", "--chart", "x.png", "--against", "scipy"], "--against: not with operations other than"),
        (["--op", "nms", "--without", "scipy"], "--without scipy: nobody is called so"),
        (["--device", "cpu", "--op", "nms", "--with", "compiled"], "--with compiled: nobody is called so"),
        (["--device", "cpu", "--with", "scipy"], "--with scipy: has no effect"),
        (["--device", "cpu", "--with", "compiled", "--without", "compiled"], "--with compiled: has no effect"),
        (["--list", "--json", "x.json"], "--json: not with --list"),
        (["--tune", "--op", "nms"], "--op: not with --tune"),
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
    monkeypatch.setattr(compiled, "compile_for", lambda targets, ops: [asked.append((targets, len(ops))) or ROW])
    assert bench("--compile-only", "--target", "sm_90,gfx942", "--json", str(tmp_path / "rows.json")) == 0
    assert asked == [(("sm_90", "gfx942"), 7)]
    cells = [cell.strip() for cell in capsys.readouterr().out.splitlines()[-2].strip("│|").split("│")]
    expected = ["forward/16-bit/d32/many", "sm_90", "32, 4, 1, 0", "48", "0", "0", "16 B", "189"]
    assert cells == [*expected, "4 red.global.add.v4.f32"]
    assert json.loads((tmp_path / "rows.json").read_text()) == [ROW]


def test_kernels_without_a_table_of_configurations_are_shown_too(capsys: pytest.CaptureFixture[str]) -> None:
    other = {name: value for name, value in ROW.items() if name not in ("config", "instructions_per_point")}
    compiled.print_compiled(report.console(), [{**other, "name": "focal/fp32"}, ROW])
    tuned, plain = [
        [cell.strip() for cell in line.strip("│").split("│")]
        for line in capsys.readouterr().out.splitlines()
        if line.startswith("│")
    ]
    assert tuned[:3] == ["forward/16-bit/d32/many", "sm_90", "32, 4, 1, 0"]
    assert plain == ["focal/fp32", "sm_90", "48", "0", "0", "16 B", "4 red.global.add.v4.f32"]


def test_every_package_with_kernels_can_be_inspected() -> None:
    pytest.importorskip("triton")
    import codetr_kernels

    (folder,) = codetr_kernels.__path__
    assert {path.parent.name for path in Path(folder).glob("*/triton")} == set(OPS)
    for op in OPS:
        assert callable(importlib.import_module(f"codetr_kernels.{op}.triton.inspection").rows)


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
