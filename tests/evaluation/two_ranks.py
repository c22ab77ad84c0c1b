"""One of two ranks that score detections together; prints what it was answered. Called by test_gather.py."""

from __future__ import annotations

import json
import sys

import numpy as np
import torch.distributed as dist

from codetr.errors import UserError
from codetr.evaluation.evaluators import CocoRules, score
from codetr.evaluation.results import Results
from codetr.evaluation.runner import score_gathered
from codetr.evaluation.truth import GroundTruth

TRUTH = GroundTruth.parse(
    {
        "images": [{"id": image, "height": 64, "width": 64} for image in (1, 2, 3)],
        "categories": [{"id": 7, "name": "cat"}, {"id": 9, "name": "dog"}],
        "annotations": [
            {"id": image, "image_id": image, "category_id": 7, "bbox": [5, 5, 40, 40], "iscrowd": 0}
            for image in (1, 2, 3)
        ],
    },
    file="gt.json",
)
HIT, MISS = [5, 5, 40, 40, 0.9], [50, 50, 10, 10, 0.8]
ROWS = ([[1, *HIT, 7], [3, *HIT, 7]], [[2, *MISS, 7], [2, *HIT, 7], [3, *HIT, 7], [3, *MISS, 7]])
ALL = [*ROWS[0], *ROWS[1][:2]]


def main(rank: int, store: str) -> None:
    dist.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=2)
    rules = CocoRules()
    figures = score_gathered(results(ROWS[rank]), truth=TRUTH, rules=rules)
    empty = score_gathered(results(ROWS[1] if rank else []), truth=TRUTH, rules=rules)
    nothing = score_gathered(results([]), truth=TRUTH, rules=rules)
    try:
        score_gathered(results([[1, *HIT, 8]] if rank else []), truth=TRUTH, rules=rules)
        failure = "none"
    except (UserError, RuntimeError) as error:
        failure = str(error)
    alone = score(TRUTH, results(ALL), rules=rules)
    dist.destroy_process_group()
    assert figures.per_class == alone.per_class
    assert empty == score(TRUTH, results(ROWS[1]), rules=rules)
    answer = {"figures": figures.as_dict(), "alone": alone.as_dict(), "empty": nothing.AP, "failure": failure}
    print(json.dumps(answer))


def results(rows: list[list[float]]) -> Results:
    return Results.of(np.array(rows, dtype=np.float64).reshape(-1, 7))


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2])
