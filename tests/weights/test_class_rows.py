"""Rows of classes: the layouts, written out, and where the modules of the package have them."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from codetr import zoo
from codetr.config import Section
from codetr.models.build import ModelSpec, build
from codetr.models.heads.contract import Head
from codetr.registry import names
from codetr.structures import Detections, HeadOutput
from codetr.weights.class_rows import ClassRows, class_rows

sys.path.append(str(Path(__file__).resolve().parents[2] / "benchmarks"))
from _small_bases import Size, small_heads, small_spec

TINY = Size(dim=32, queries=9, encoder_layers=1, decoder_layers=2, channels=(8, 8, 8, 8))
BASES = [name.removeprefix("bases/") for name in zoo.names() if name.startswith("bases/")]


def spec_of(base: str, *heads: str) -> ModelSpec:
    settings = small_spec(base, heads=False, size=TINY).model_dump()
    return ModelSpec.model_validate({**settings, "heads": small_heads(heads, size=TINY)})


def rows_of(base: str, *heads: str) -> dict[str, ClassRows]:
    spec = spec_of(base, *heads)
    with torch.device("meta"):
        return class_rows(build(spec, 4, pretrained=False), spec)


@pytest.mark.parametrize(
    ("rows", "expected"),
    [
        (ClassRows(0, 1, 0, "by class"), [(0, 2), (2, 0)]),
        (ClassRows(0, 1, 1, "by class"), [(0, 2), (2, 0), (3, 5)]),
        (ClassRows(0, 2, 0, "by class"), [(0, 4), (1, 5), (4, 0), (5, 1)]),
        (ClassRows(0, 2, 0, "by prior"), [(0, 2), (3, 7), (2, 0), (5, 5)]),
        (ClassRows(0, 2, 1, "unknown"), []),
        (ClassRows(0, 1, 0, "by class", any_object_first=True), [(0, 0)]),
    ],
)
def test_rows_that_mean_the_same(rows: ClassRows, expected: list[tuple[int, int]]) -> None:
    """Of three classes the first is the third of five there, the third the first."""
    assert rows.pairs({0: 2, 2: 0}, 3, 5) == expected


def test_the_row_of_any_object_is_no_class() -> None:
    rows = ClassRows(0, 1, 0, "by class", any_object_first=True)
    assert sorted(rows.pairs({0: 1, 1: 0, 2: 3}, 3, 5)) == [(0, 0), (2, 3)]


def test_the_layouts_of_the_heads() -> None:
    one, softmax = ClassRows(0, 1, 0, "by class"), ClassRows(0, 1, 1, "by class")
    nine, deltas = ClassRows(0, 9, 0, "by prior"), ClassRows(0, 4, 0, "by class")
    expected = {
        "atss.cls": one,
        "fcos.cls": one,
        "gfl.cls": one,
        "paa.cls": one,
        "retinanet.cls": nine,
        "faster_rcnn.roi.cls": softmax,
        "faster_rcnn.roi.deltas": deltas,
        "mask_rcnn.roi.cls": softmax,
        "mask_rcnn.roi.deltas": deltas,
        "mask_rcnn.mask.logits": one,
    }
    found = {name: rows for name, rows in rows_of("detr", *names("heads")).items() if name.startswith("heads.")}
    assert found == {f"heads.{layer}.{kind}": rows for layer, rows in expected.items() for kind in ("weight", "bias")}


@pytest.mark.parametrize("base", BASES)
def test_the_layouts_of_the_bases(base: str) -> None:
    """All of them are linear layers, after which DETR alone has a row for no object, and embeddings of labels."""
    for name, rows in rows_of(base).items():
        label = "label_embed" in name
        assert label or ".heads.classes." in name
        two_stage_of_any = "proposals" in name and base in ("deformable_detr_pp", "h_deformable_detr")
        assert rows == ClassRows(0, 1, int(label or base == "detr"), "by class", any_object_first=two_stage_of_any)


@pytest.mark.parametrize(("base", "count"), [("detr", 2), ("dino", 5), ("dn_detr", 3), ("deformable_detr_pp", 6)])
def test_nothing_is_overlooked(base: str, count: int) -> None:
    assert len(rows_of(base)) == count


class BinsOfAClass(Head):
    """From outside, with three numbers for each class in an order of its own."""

    class Config(Section):
        pass

    def __init__(self, config: Config, *, dim: int, num_classes: int, **_: Any) -> None:
        super().__init__()
        self.classes, self.bins = nn.Linear(dim, num_classes), nn.Linear(dim, 3 * num_classes)

    def forward(self, *_: Any) -> HeadOutput:
        raise NotImplementedError

    def predict(self, *_: Any) -> list[Detections]:
        raise NotImplementedError


def test_the_order_of_several_rows_in_a_layer_from_outside_is_unknown() -> None:
    settings = spec_of("detr").model_dump()
    spec = ModelSpec.model_validate({**settings, "heads": {"mine": {"name": f"{__name__}:BinsOfAClass"}}})
    with torch.device("meta"):
        rows = class_rows(build(spec, 4, pretrained=False), spec)
    assert rows["heads.mine.classes.weight"] == ClassRows(0, 1, 0, "by class")
    assert rows["heads.mine.bins.weight"] == ClassRows(0, 3, 0, "unknown")
