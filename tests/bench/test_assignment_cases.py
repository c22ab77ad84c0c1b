"""The cases: on a tiny version of each, everyone who can be measured agrees with float64, and errors are seen."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from codetr.bench.assignment import assigners, boxes, losses, matching, nms
from codetr.bench.assignment.case import CPU, CUDA, OURS, QUICK, Case
from codetr.bench.assignment.measuring import calls
from codetr.bench.assignment.selection import OPS, all_cases, select

HOST = torch.device("cpu")
NOWHERE: frozenset[str] = frozenset()
IMAGE = (100, 133)

TINY = [
    matching.assignment_case(4, 5, 17, NOWHERE),
    matching.assignment_case(4, 9, 17, NOWHERE, ties=True),
    matching.cost_case(2, 2, 12, 5, 4, NOWHERE),
    matching.chain_case(2, 2, 12, 5, 4, NOWHERE),
    *(boxes.pairs_case(name, 2, 9, 5, NOWHERE) for name in boxes.PAIRS),
    *(boxes.loss_case(kind, 20, NOWHERE) for kind in boxes.LOSSES),
    *(losses.loss_case(name, 300, 7, "fp32", NOWHERE) for name in losses.FUNCTIONS),
    losses.loss_case("focal", 300, 7, "bf16", NOWHERE),
    assigners.max_iou_case(6, IMAGE, NOWHERE),
    assigners.atss_case(6, NOWHERE, image=IMAGE),
    assigners.fcos_case(6, NOWHERE, image=IMAGE),
    assigners.paa_case(6, NOWHERE, image=IMAGE),
    nms.greedy_case("tiny", 2, 300, 3, 0.6, 40, NOWHERE),
    nms.greedy_case("room", 2, 60, 3, 0.6, 60, NOWHERE),
    nms.soft_case(2, 60, 20, NOWHERE),
]


def name_of(case: Case) -> str:
    return case.name


@pytest.mark.parametrize("case", TINY, ids=name_of)
def test_everyone_agrees(case: Case) -> None:
    inputs = case.make(HOST)
    truth = case.truth(inputs)
    seen = []
    for name, maker in case.people.items():
        if name == "compiled":
            continue
        try:
            person = maker(HOST)
        except ImportError:
            continue
        forward, step = calls(case, person, inputs)
        assert case.check((step or forward)(), truth) is None, name
        seen.append(name)
    assert seen[0] == OURS
    assert case.peer in seen


def changed(result: Any) -> Any:
    """A tenth of it is something else."""
    if isinstance(result, tuple):
        return (changed(result[0]), *result[1:])
    wrong: torch.Tensor = result.clone()
    flat = wrong.view(-1)
    flat[::10] = flat[::10] + 1
    return wrong


@pytest.mark.parametrize("case", TINY, ids=name_of)
def test_an_error_is_seen(case: Case) -> None:
    inputs = case.make(HOST)
    forward, step = calls(case, case.people[OURS](HOST), inputs)
    assert case.check(changed((step or forward)()), case.truth(inputs)) is not None


def test_a_dearer_assignment_is_seen() -> None:
    """Each object has a query of its own, and two of them the other's."""
    case = TINY[0]
    inputs = case.make(HOST)
    query = calls(case, case.people[OURS](HOST), inputs)[0]()
    query[2, [0, 1]] = query[2, [1, 0]]
    fault = case.check(query, case.truth(inputs))
    assert fault is not None
    assert fault.startswith("problem 2: total is ")


def test_the_rescue_of_the_best_priors_is_seen() -> None:
    """Without it, objects that no anchor overlaps by 0.7 have none."""
    case = assigners.max_iou_case(20, (400, 667), NOWHERE)
    inputs = case.make(HOST)
    result = case.people["image loop"](HOST)({**inputs, "low_quality": 2.0})
    fault = case.check(result, case.truth(inputs))
    assert fault is not None
    assert "decisions differ, limit 0" in fault


def test_a_box_that_is_missing_or_overlaps_is_seen() -> None:
    case = nms.greedy_case("tiny", 2, 300, 3, 0.6, 300, NOWHERE)
    inputs = case.make(HOST)
    index, kept = case.people[OURS](HOST)(inputs)
    fewer = kept.clone()
    fewer[1, kept[1].sum() - 1] = False
    assert case.check((index, fewer), inputs) == "image 1: 1 boxes are missing"
    everything = (inputs["scores"].argsort(1, descending=True), torch.ones_like(kept))
    valid = {**inputs, "valid": torch.ones_like(inputs["valid"])}
    assert case.check(everything, valid) == "image 0: a kept box overlaps a better one"


def test_costs_of_the_assignment_alone_add_up_exactly() -> None:
    inputs = matching.assignment_inputs(2, 30, 90, HOST, ties=False)
    steps = inputs["cost"] / matching.STEP
    assert torch.equal(steps, steps.round())
    # As many objects as any case has.
    assert 2 * 300 * steps.abs().max() < 2**24


def test_names_are_one_case_each_and_every_operation_has_cases_everywhere() -> None:
    cases = all_cases()
    assert len({case.name for case in cases}) == len(cases)
    for suit in (CPU, CUDA, QUICK):
        assert {case.op for case in cases if suit in case.suits} == set(OPS)
    assert all(next(iter(case.people)) == OURS and case.peer in case.people for case in cases)


def test_selection() -> None:
    assert [case.name for case in select(OPS, ["soft_*"], device=HOST, quick=False)] == ["soft_nms-2x1000"]
    assert select(["boxes"], ["soft_*"], device=HOST, quick=False) == []
    quick = select(["nms"], [], device=HOST, quick=True)
    assert [case.name for case in quick] == ["batched_nms-classes-2x8000", "soft_nms-2x1000"]


@pytest.mark.gpu
@pytest.mark.parametrize("case", TINY, ids=name_of)
def test_ours_agrees_on_a_gpu(case: Case) -> None:
    device = torch.device("cuda")
    inputs = case.make(device)
    forward, step = calls(case, case.people[OURS](device), inputs)
    assert case.check((step or forward)(), case.truth(inputs)) is None
