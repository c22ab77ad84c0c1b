"""The rows of the paper's Table 12: zero to five convolutions before the predictions of the ATSS head."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

sys.path.append(str(Path(__file__).resolve().parents[3] / "benchmarks"))
from head_matrix import cell_model, problems

from codetr.document import open_document


@pytest.mark.parametrize("depth", range(6))
def test_a_row_trains(depth: int) -> None:
    """On a small base: finite losses, and a gradient of every parameter that something in the batch can move."""
    row = open_document({"extends": [f"paper/table12_convs_{depth}"]}).plain()
    base, heads = row["base"]["name"], row["heads"]
    assert (base, list(heads)) == ("deformable_detr", ["atss"])
    head = cell_model(base, heads).heads["atss"]
    assert len(head.cls_tower) == len(head.box_tower) == depth
    assert problems(base, heads) == []
