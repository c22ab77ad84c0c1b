from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hotcoco import mask as run_length

from codetr.data.segments import segment_flaw


def compressed(mask: np.ndarray) -> dict[str, Any]:
    code = run_length.encode(np.asfortranarray(mask.astype(np.uint8)))
    counts = code["counts"]
    return {"size": list(mask.shape), "counts": counts.decode() if isinstance(counts, bytes) else counts}


@pytest.mark.parametrize("seed", range(30))
def test_compressed_run_lengths_of_any_mask_are_sound_and_broken_ones_are_not(seed: int) -> None:
    draw = np.random.default_rng(seed)
    height, width = draw.integers(1, 60, 2).tolist()
    segment = compressed(draw.random((height, width)) < draw.random())
    assert segment_flaw(segment, (height, width)) is None
    assert segment_flaw(segment, None) is None
    assert segment_flaw({**segment, "counts": segment["counts"][:-1]}, (height, width)) is not None
    assert segment_flaw({**segment, "size": [height, width + 1]}, None) is not None


@pytest.mark.parametrize(
    ("segment", "flaw"),
    [
        ("text", "it must be a list of polygons or run lengths, found 'text'"),
        ([], "it has no polygon"),
        ([5, 5, 9, 9, 5, 9], "a polygon must be a list [x1, y1, x2, y2, ...], found 5"),
        ([[1, 2, 3, 4, 5, float("nan")]], "a polygon holds something other than finite numbers"),
        ([[1, 2, 3, 4, 5, True]], "a polygon holds something other than finite numbers"),
        ({"counts": [6]}, "run lengths need 'size', [height, width], found None"),
        ({"size": [2, 3]}, "run lengths need 'counts', a text or a list of integers, found None"),
        ({"size": [2, 3], "counts": [7, -1]}, "the run lengths must be integers of at least 0"),
        ({"size": [10**6, 10**6], "counts": [5]}, "its run lengths add up to 5 pixels, not to 1000000000000"),
        ({"size": [2, 3], "counts": ""}, "its run lengths add up to 0 pixels, not to 6"),
    ],
)
def test_flaws(segment: Any, flaw: str) -> None:
    assert segment_flaw(segment, None) == flaw


def test_real_files_are_sound(shared: Path) -> None:
    for name in ("coco_cc/instances_cc_by.json", "eval/coco_val2014_100_gt.json"):
        content = json.loads((shared / "data" / name).read_text())
        assert {segment_flaw(entry["segmentation"], None) for entry in content["annotations"]} == {None}
