"""One clear message for arguments that do not fit together."""

from __future__ import annotations

import pytest
import torch
from codetr_kernels import atss_assign, fcos_assign, paa_assign
from codetr_kernels.assigners import CellGrid

GOOD = {
    "priors": torch.zeros(6, 4),
    "prior_valid": torch.ones(2, 6, dtype=torch.bool),
    "gt_boxes": torch.zeros(2, 3, 4),
    "gt_valid": torch.ones(2, 3, dtype=torch.bool),
}


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"prior_valid": torch.ones(2, 6)}, r"validity of priors must be bool \(B, P\), got torch.float32 \(2, 6\)"),
        ({"priors": torch.zeros(5, 4)}, r"priors must be \(6, 4\) or \(2, 6, 4\), as validity has it, got \(5, 4\)"),
        ({"gt_boxes": torch.zeros(3, 3, 4)}, r"gt_boxes must be \(2, 'G', 4\), got \(3, 3, 4\)"),
        ({"gt_valid": torch.ones(2, 2, dtype=torch.bool)}, r"gt_valid must be bool \(2, 3\), got torch.bool \(2, 2\)"),
        ({"priors": torch.zeros(6, 4, dtype=torch.int64)}, "priors must be floating-point, got torch.int64"),
        ({"gt_boxes": torch.zeros(2, 3, 4, device="meta")}, "one device needed, got priors on cpu, .*gt_boxes on meta"),
        ({"level_sizes": (4, 3)}, r"level_sizes must sum to the 6 priors, got \(4, 3\)"),
        ({"topk": 0}, "topk must be at least 1, got 0"),
        ({"grid": CellGrid(((2, 2),), (8,))}, r"grid.shapes \(\(2, 2\),\) must be levels of \(6,\) cells"),
        ({"grid": CellGrid(((2, 3),), (8, 16))}, r"grid.strides must be 1 positive numbers, got \(8, 16\)"),
        ({"grid": CellGrid(((2, 3),), (8,), 0.0, torch.ones(3, 2))}, r"grid.sizes must be \(2, 2\)"),
    ],
)
def test_what_does_not_fit_is_named(changed: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        atss_assign(**{**GOOD, "level_sizes": (6,), **changed})


def test_settings_of_other_assigners_are_named() -> None:
    inputs = (GOOD["priors"][:, :2], *list(GOOD.values())[1:])
    with pytest.raises(ValueError, match="level_sizes, strides and ranges must be one a level, got 1, 2 and 1"):
        fcos_assign(*inputs, level_sizes=(6,), strides=(8, 16), ranges=((-1, 8),))
    with pytest.raises(ValueError, match="radius must be positive, or None for whole boxes, got 0"):
        fcos_assign(*inputs, level_sizes=(6,), strides=(8,), ranges=((-1, 8),), radius=0)
    index = torch.zeros(1, 4, dtype=torch.int64)
    with pytest.raises(
        ValueError, match=r"losses must be floating-point \(1, 4\) as gt_index, got torch.float32 \(1, 3\)"
    ):
        paa_assign(torch.zeros(1, 3), index, num_gts=1, level_sizes=(4,))
    with pytest.raises(ValueError, match=r"gt_index must be int64 \(B, P\), got torch.int32"):
        paa_assign(torch.zeros(1, 4), index.int(), num_gts=1, level_sizes=(4,))
    with pytest.raises(ValueError, match="num_gts must not be negative, got -1"):
        paa_assign(torch.zeros(1, 4), index, num_gts=-1, level_sizes=(4,))
