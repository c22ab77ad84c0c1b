"""hotcoco and pycocotools on an example with two boxes whose AP is known."""

from __future__ import annotations

from codetr.doctor.findings import Finding, described, pip_install
from codetr.doctor.importing import Unimportable, require

EXPECTED = 0.75
"""AP: 1 for the class whose box is found exactly; 0.5 for the other one, whose IoU of 0.7195 reaches five of the ten
thresholds, 0.50 to 0.70."""


def check_evaluators() -> list[Finding]:
    require("numpy")
    return [judge_evaluators({name: _ap(name) for name in ("hotcoco", "pycocotools")})]


def _ap(name: str) -> float | str:
    """The AP, or why there is none."""
    try:
        require(name)
        return example(name)
    except Unimportable as error:
        return str(error)
    except Exception as error:
        return described(error)


def example(evaluator: str) -> float:
    """AP of two detections of two objects."""
    import numpy as np

    from codetr.evaluation.evaluators import open_evaluator, score
    from codetr.evaluation.results import Results
    from codetr.evaluation.truth import GroundTruth

    boxes = ([10.0, 10.0, 40.0, 30.0], [50.0, 20.0, 41.0, 41.0])
    truth = GroundTruth.parse(
        {
            "images": [{"id": 1, "height": 100, "width": 100}],
            "categories": [{"id": 1, "name": "a"}, {"id": 2, "name": "b"}],
            "annotations": [
                {"id": i, "image_id": 1, "category_id": i, "bbox": box, "area": box[2] * box[3], "iscrowd": 0}
                for i, box in enumerate(boxes, start=1)
            ],
        },
        file="the doctor's example",
    )
    shorter = [50.0, 20.0, 41.0, 29.5]
    rows = np.array([[1, *boxes[0], 0.9, 1], [1, *shorter, 0.8, 2]], dtype=np.float64)
    return float(score(truth, Results.of(rows), evaluator=open_evaluator(evaluator)).AP)


def judge_evaluators(figures: dict[str, float | str]) -> Finding:
    """figures: of each library its AP of the example, or why there is none."""
    broken = {name: why for name, why in figures.items() if isinstance(why, str)}
    wrong = {name: ap for name, ap in figures.items() if not isinstance(ap, str) and not abs(ap - EXPECTED) <= 1e-9}
    if broken or wrong:
        reasons = [*broken.values(), *(f"{name} gives AP {ap:.4f}, not {EXPECTED}" for name, ap in wrong.items())]
        fix = pip_install("--upgrade", "--force-reinstall", "--no-deps", *broken, *wrong)
        stands_in = "" if "pycocotools" in {*broken, *wrong} else "; pycocotools stands in, more slowly"
        return Finding("evaluators", "failure", "; ".join(reasons) + stands_in, fix)
    return Finding("evaluators", "ok", f"{' and '.join(figures)} agree: AP {EXPECTED} of an example with two boxes")
