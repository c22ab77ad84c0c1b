"""One of two ranks that score detections together; prints what it was answered. Called by test_gather.py."""

from __future__ import annotations

import json
import sys

import numpy as np
import torch.distributed as dist
from evaluation_cases import IMAGES, RULES, case

from codetr.errors import UserError
from codetr.evaluation.evaluators import EVALUATORS, open_evaluator
from codetr.evaluation.gather import from_leader, to_leader
from codetr.evaluation.scorer import Scorer

SHARES = (IMAGES[3::-1], IMAGES[2:5])  # two images come to both of them


def main(rank: int, store: str) -> None:
    dist.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=2)
    figures = {}
    for evaluator in EVALUATORS:
        for name, rules in RULES.items():
            truth, found = case(rules)
            scorer = Scorer(truth, rules, evaluator=open_evaluator(evaluator))
            for image in (*SHARES[rank], SHARES[rank][0]):
                # What the second rank finds in an image that the first has as well does not count.
                counts = rank == 0 or image not in SHARES[0]
                scorer.add(image, found[image] if counts else found[image].take(np.arange(len(found[image]) // 2)))
            figures[f"{evaluator}: {name}"] = [one.numbers() for one in scorer.figures(classes=[0, 3])]
    contents = to_leader(b"abc" if rank else b"")
    answer = {"figures": figures, "contents": [content.decode() for content in contents], "failure": failure()}
    dist.destroy_process_group()
    print(json.dumps(answer))


def failure() -> str:
    def compute() -> list[float]:
        raise UserError("no figures")

    try:
        from_leader(compute, 3)
    except (UserError, RuntimeError) as error:
        return str(error)
    return "none"


def alone() -> dict[str, list[list[float]]]:
    """What one process finds in all images."""
    figures = {}
    for evaluator in EVALUATORS:
        for name, rules in RULES.items():
            truth, found = case(rules)
            scorer = Scorer(truth, rules, evaluator=open_evaluator(evaluator))
            for image, results in found.items():
                scorer.add(image, results)
            figures[f"{evaluator}: {name}"] = [one.numbers() for one in scorer.figures(classes=[0, 3])]
    return figures


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2])
