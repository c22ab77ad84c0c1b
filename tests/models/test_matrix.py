"""Every base trains with all heads at once, one base with each alone and with several of a kind.

The full matrix, and what a cell holds: `benchmarks/head_matrix.py`.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from codetr.models.collaborative import Collaborative
from codetr.registry import names
from codetr.structures import DecoderOutput, HeadOutput, Memory, QueryGroup

sys.path.append(str(Path(__file__).resolve().parents[2] / "benchmarks"))
from head_matrix import (
    HEADS,
    cell_heads,
    cell_model,
    forms,
    problems,
    problems_of_company,
    problems_of_step,
)

BASE = "deformable_detr_pp"
OBJECTS, NOTHING = (3, 1), (0, 0)


def test_every_base_is_a_row() -> None:
    assert set(names("bases")) < set(forms())
    assert {"deformable_detr_pp", "dab_deformable_detr", "dn_deformable_detr"} < set(forms())
    assert {"atss", "faster_rcnn", "fcos", "gfl", "mask_rcnn", "paa", "retinanet"} <= set(HEADS)


@pytest.mark.parametrize("base", forms())
def test_every_base_with_all_heads(base: str) -> None:
    assert problems(base, cell_heads(HEADS)) == []


@pytest.mark.parametrize("head", HEADS)
def test_each_head_alone(head: str) -> None:
    assert problems(BASE, cell_heads([head])) == []


@pytest.mark.parametrize("count", [2, 6])
@pytest.mark.parametrize("base", [BASE, "conditional_detr"])
def test_several_heads_of_a_kind(base: str, count: int) -> None:
    """Each has parameters, losses and queries of its own (paper, section 4.4)."""
    heads = {f"atss_{i}": {"name": "atss"} for i in range(count)}
    assert problems(base, heads) == []
    model = cell_model(base, heads)
    assert list(model.heads) == list(model.positive_queries) == list(heads)
    assert len({id(p) for head in model.heads.values() for p in head.parameters()}) == sum(
        len(list(head.parameters())) for head in model.heads.values()
    )


@pytest.fixture
def model() -> Collaborative:
    return cell_model(BASE, cell_heads(["atss"]))


def _after(monkeypatch: pytest.MonkeyPatch, owner: object, method: str, change: Callable[..., object]) -> None:
    """The method returns what `change` makes of its result."""
    plain = getattr(owner, method)
    monkeypatch.setattr(owner, method, lambda *args, **kwargs: change(plain(*args, **kwargs), *args))


def test_faults_of_a_step_are_found(model: Collaborative, monkeypatch: pytest.MonkeyPatch) -> None:
    assert list(problems_of_step(BASE, model, OBJECTS)) == []
    terms = {"centerness": None, "box": torch.tensor(float("nan"))}

    def without(output: HeadOutput, *_: object) -> HeadOutput:
        losses = {name: terms.get(name, loss) for name, loss in output.losses.items()}
        return replace(output, losses={name: loss for name, loss in losses.items() if loss is not None})

    _after(monkeypatch, model.heads["atss"], "forward", without)
    found = list(problems_of_step(BASE, model, OBJECTS))
    assert "loss atss.box is nan" in found
    assert "gradient of heads.atss.centerness.weight is missing" in found
    assert "gradient of heads.atss.scales.0 is missing" in found


def test_a_gradient_that_nothing_gives_is_found(model: Collaborative, monkeypatch: pytest.MonkeyPatch) -> None:
    assert list(problems_of_step(BASE, model, NOTHING)) == []
    bias = model.heads["atss"].centerness.bias

    def more(output: HeadOutput, *_: object) -> HeadOutput:
        return replace(output, losses={**output.losses, "cls": output.losses["cls"] * 0 + bias.sum()})

    _after(monkeypatch, model.heads["atss"], "forward", more)
    found = list(problems_of_step(BASE, model, NOTHING))
    assert "gradient of heads.atss.centerness.bias is not zero" in found
    assert "gradient of heads.atss.cls.weight is zero" in found


def test_matched_queries_that_see_positives_are_found(model: Collaborative, monkeypatch: pytest.MonkeyPatch) -> None:
    assert list(problems_of_company(model, OBJECTS)) == []
    plain = model.base.decode

    def seeing(memory: Memory, groups: list[QueryGroup]) -> DecoderOutput:
        others = frozenset(group.name for group in groups[1:])
        return plain(memory, [replace(groups[0], sees=others), *groups[1:]])

    monkeypatch.setattr(model.base, "decode", seeing)
    (problem,) = problems_of_company(model, OBJECTS)
    assert problem.startswith("positives change the matched branch by")


def test_a_head_without_positives_is_found(model: Collaborative, monkeypatch: pytest.MonkeyPatch) -> None:
    def none(output: HeadOutput, *_: object) -> HeadOutput:
        return replace(output, positives=replace(output.positives, valid=output.positives.valid & False))

    _after(monkeypatch, model.heads["atss"], "forward", none)
    assert list(problems_of_company(model, OBJECTS)) == ["atss has positives in the images [False, False]"]
