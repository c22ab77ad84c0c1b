from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from evaluation_cases import RULES, case

from codetr.evaluation.packing import pack, unpack
from codetr.evaluation.results import Results


@pytest.mark.parametrize("name", ["coco boxes", "coco masks"])
def test_detections_come_back_bit_for_bit(name: str) -> None:
    results = case(RULES[name])[1][40]
    back = unpack(pack(results))
    assert np.array_equal(back.rows(), results.rows())
    assert back.segmentations == results.segmentations


def test_masks_of_different_sizes_and_nothing() -> None:
    rows = np.array([[2**52 + 1, 0, 0, 1, 1, 0.1, 3], [-5, 1 / 3, 0, 1, 1, 1, 4]])
    masks = ({"size": [3, 4], "counts": "04000"}, {"size": [100, 7], "counts": ""})
    results = replace(Results.of(rows), segmentations=masks)
    assert unpack(pack(results)).segmentations == masks
    assert unpack(pack(results)).image_ids.tolist() == [2**52 + 1, -5]
    for empty in (Results.of(np.empty((0, 7))), replace(Results.of(np.empty((0, 7))), segmentations=())):
        back = unpack(pack(empty))
        assert len(back) == 0
        assert back.segmentations == empty.segmentations


def test_a_box_takes_its_seven_numbers() -> None:
    results = case(RULES["coco boxes"])[1][40]
    assert len(pack(results)) == 16 + len(results) * 7 * 8
