"""The run of the cases: who is wrong is not timed, who fails or is not there is reported."""

from __future__ import annotations

import io
from collections.abc import Mapping
from typing import Any

import pytest
import torch
from rich.console import Console
from torch import Tensor

from codetr.bench.assignment.case import OURS, Case, Inputs, Maker, always, needs
from codetr.bench.assignment.measuring import Row, calls, run, with_ratios
from codetr.bench.assignment.picture import bars
from codetr.bench.assignment.tables import print_op
from codetr.bench.timing import Times

CPU = torch.device("cpu")


def doubled(inputs: Inputs) -> Tensor:
    result: Tensor = 2 * inputs["x"]
    return result


def failing(inputs: Inputs) -> Tensor:
    raise RuntimeError("no kernel image\nfor this device")


def squared(inputs: Inputs) -> Tensor:
    result: Tensor = inputs["x"].square()
    return result


def inputs_of(device: torch.device) -> dict[str, Any]:
    return {"x": torch.tensor([1.0, 3.0], device=device), "grad": torch.tensor([1.0, 10.0], device=device)}


def check(result: Tensor, truth: Tensor) -> str | None:
    return None if torch.equal(result, truth) else f"{result.tolist()} instead of {truth.tolist()}"


def case(people: Mapping[str, Maker], **changes: Any) -> Case:
    settings: dict[str, Any] = {"peer": "good", "truth": doubled, "check": check}
    return Case("boxes", "double-2", "two numbers", inputs_of, people, **(settings | changes))


EVERYONE: dict[str, Maker] = {
    OURS: always(doubled),
    "good": always(doubled),
    "wrong": always(squared),
    "broken": always(failing),
    "missing": needs("no_such_module", lambda module: doubled, package="nothing"),
}


def rows(**options: Any) -> dict[str, Row]:
    (found,) = run([case(EVERYONE)], CPU, quick=True, **options)
    return {row.candidate: row for row in found}


def test_a_row_of_everyone() -> None:
    found = rows()
    assert {name: row.status for name, row in found.items()} == {
        OURS: "timed", "good": "timed", "wrong": "wrong", "broken": "failed", "missing": "absent",
    }  # fmt: skip
    assert found["wrong"].reason == "[1.0, 9.0] instead of [2.0, 6.0]"
    assert found["wrong"].forward is None
    assert found["broken"].reason == "RuntimeError: no kernel image"
    assert found["missing"].reason == "No module named 'no_such_module' (pip install nothing)"
    ours, good = found[OURS], found["good"]
    assert ours.forward is not None and good.forward is not None
    assert 0 < ours.forward.median <= ours.forward.p95
    assert ours.forward_ratio == good.forward.median / ours.forward.median
    assert good.forward_ratio == 1
    assert (ours.step, ours.step_ratio, ours.peak_memory) == (None, None, None)
    assert not any(row.is_defect for row in found.values())


@pytest.mark.parametrize("person", [squared, failing])
def test_ours_is_a_defect_where_it_is_wrong_or_fails(person: Any) -> None:
    (found,) = run([case({OURS: always(person), "good": always(doubled)})], CPU, quick=True)
    assert [row.is_defect for row in found] == [True, False]
    assert [row.status for row in found][1] == "timed"


def test_who_is_left_out_and_what_has_no_time() -> None:
    assert set(rows(without=["wrong", "broken"])) == {OURS, "good", "missing"}
    found = rows(seconds=-1)
    assert {row.status for row in found.values()} == {"left out", "absent"}
    assert found[OURS].reason == "out of time"


def test_a_step_gives_the_output_and_gradients_that_are_checked() -> None:
    def check_both(found: tuple[Tensor, Tensor], truth: Tensor) -> str | None:
        output, gradient = found
        return check(output, truth) or check(gradient, torch.tensor([2.0, 60.0]))

    differentiable = case({OURS: always(squared)}, truth=squared, check=check_both, gradients=("x",))
    forward, step = calls(differentiable, squared, inputs_of(CPU))
    assert not forward().requires_grad
    assert step is not None and [tensor.tolist() for tensor in step()] == [[1.0, 9.0], [2.0, 60.0]]
    (found,) = run([differentiable], CPU, quick=True)
    assert found[0].status == "timed", found[0].reason
    assert found[0].step is not None


def timed(candidate: str, forward: float, step: float | None = None, name: str = "double-2") -> Row:
    both = None if step is None else Times(step, step, 3)
    return Row("boxes", name, candidate, "timed", "good", forward=Times(forward, forward, 3), step=both)


def test_speeds_are_the_peers_time_by_ones_own() -> None:
    found = with_ratios([timed(OURS, 2.0, 5.0), timed("good", 8.0, 10.0), timed("other", 16.0)])
    assert [(row.forward_ratio, row.step_ratio) for row in found] == [(4.0, 2.0), (1.0, 1.0), (0.5, None)]
    assert with_ratios([timed(OURS, 2.0)])[0].forward_ratio is None


def test_the_picture_shows_ours_beside_the_peer() -> None:
    shown = bars([timed(OURS, 2.0, 5.0), timed("good", 8.0, 10.0), timed("other", 1.0)])
    assert [(bar.label, bar.peer, bar.is_step, bar.ratio) for bar in shown] == [
        ("double-2", "good", False, 4.0), ("double-2", "good", True, 2.0),
    ]  # fmt: skip
    assert bars([timed(OURS, 2.0), timed("good", 1.0, name="another")]) == []


def test_the_table_says_all_of_it() -> None:
    out = Console(file=io.StringIO(), width=150, highlight=False)
    print_op(out, [case(EVERYONE)], [*rows().values()])
    assert isinstance(out.file, io.StringIO)
    shown = out.file.getvalue()
    assert "double-2: two numbers" in shown
    assert "good (peer)" in shown
    assert "double-2: wrong: wrong: [1.0, 9.0] instead of [2.0, 6.0]" in shown
    assert "double-2: broken: failed: RuntimeError: no kernel image" in shown
    assert "  missing: absent: No module named 'no_such_module' (pip install nothing)" in shown
    assert "fwd+bwd" not in shown
