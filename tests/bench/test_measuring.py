"""The run: who is wrong is not timed, who fails is reported, and what has no time is left out."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from codetr_kernels.deform_attention import deform_attention_fused_reference, deform_attention_reference
from torch import Tensor

from codetr.bench.candidates import OURS, Candidate
from codetr.bench.ceilings import Ceilings
from codetr.bench.measuring import calls, grouped, run
from codetr.bench.problems import Problem, make_inputs
from codetr.bench.timing import measure, peak_bytes
from codetr.bench.traffic import forward_bytes, gathered_bytes

CPU = torch.device("cpu")
TINY = Problem("tiny", ((5, 11), (3, 6)), 2, 7, torch.float32, heads=2, channels=32)
CEILINGS = Ceilings(copy=1e9, gather={128: 1e10})
GOOD = Candidate("good", deform_attention_reference, deform_attention_fused_reference)


def doubled(*arguments: Tensor) -> Tensor:
    return 2 * deform_attention_reference(*arguments)  # type: ignore[arg-type]


def failing(*arguments: Tensor) -> Tensor:
    raise RuntimeError("no kernel image\nfor this device")


def test_a_row_of_everyone() -> None:
    people = [GOOD, replace(GOOD, name="wrong", op=doubled), replace(GOOD, name="failing", op=failing)]
    found = grouped(run([TINY], people, CEILINGS, CPU, quick=True))
    groups = {rows[0].chain: rows for _, rows in found}
    good, wrong, broken = groups["op"]
    assert [row.status for row in groups["whole"]] == ["timed", "timed", "timed"]
    assert good.forward is not None
    assert good.step is not None
    assert good.forward_rate == 1000 * forward_bytes(TINY, "op") / good.forward.median
    assert good.forward_of_copy == good.forward_rate / 1e9
    assert good.forward_of_gather == 1000 * gathered_bytes(TINY) / good.forward.median / 1e10
    assert good.backward == good.step.median - good.forward.median
    assert good.peak_memory is None
    assert (wrong.status, wrong.forward) == ("wrong", None)
    assert wrong.reason.startswith("output: error ")
    assert (broken.status, broken.reason) == ("failed", "RuntimeError: no kernel image")


def test_our_own_failure_is_not_a_result() -> None:
    with pytest.raises(RuntimeError, match="no kernel image"):
        list(run([TINY], [replace(GOOD, name=OURS, op=failing)], CEILINGS, CPU, quick=True))


def test_out_of_time() -> None:
    rows = list(run([TINY], [GOOD], CEILINGS, CPU, quick=True, seconds=-1))
    assert [(row.chain, row.status) for row in rows] == [("op", "left out"), ("whole", "left out")]


def test_a_step_gives_gradients_to_all_but_the_references() -> None:
    forward, step = calls(GOOD, make_inputs(TINY, CPU), "whole")
    output, gradients = forward(), step()
    assert isinstance(output, Tensor)
    assert not output.requires_grad
    assert isinstance(gradients, tuple)
    assert [gradient.shape for gradient in gradients] == [(2, 73, 2, 32), (2, 7, 2, 2, 4, 2), (2, 7, 2, 8)]


def test_times_are_of_as_many_calls_as_are_said() -> None:
    made = []
    times = measure(lambda: made.append(1), CPU, seconds=0.01)
    assert len(made) == times.runs + 2  # the warm-up and the estimate
    assert 3 <= times.runs <= 1000
    assert 0 < times.median <= times.p95
    assert peak_bytes(lambda: None, CPU) is None
