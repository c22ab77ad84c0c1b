from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from evaluation_cases import RULES, case

from codetr.errors import UserError
from codetr.evaluation.evaluators import Protocol, score
from codetr.evaluation.results import IouType, Results, read_results
from codetr.evaluation.submissions import Submission


def submission(file: Path, iou_type: IouType = "bbox", protocol: Protocol = "coco") -> Submission:
    return Submission(file, Path("annotations/image_info_test-dev2017.json"), iou_type, protocol)


@pytest.mark.parametrize(
    ("name", "protocol", "member"),
    [
        ("mine.zip", "coco", "detections_test-dev2017_mine_results.json"),
        ("detections_test-dev2017_x_results.zip", "coco", "detections_test-dev2017_x_results.json"),
        ("mine.zip", "lvis", "mine.json"),
    ],
)
def test_the_name_inside(name: str, protocol: Protocol, member: str) -> None:
    assert submission(Path(name), protocol=protocol).member == member


def test_boxes_are_rounded_and_nothing_else_is_lost(tmp_path: Path) -> None:
    rows = np.array([[5, 1 / 3, 2 / 3, 100.126, 7.0, 0.1234567, 90], [2**40, 0, 0, 640, 480, 1, 1]])
    target = submission(tmp_path / "x.json")
    assert target.write(iter([Results.of(rows[:1]), Results.of(rows[1:])])) == 2
    assert json.loads(target.file.read_text()) == [
        {"image_id": 5, "category_id": 90, "bbox": [0.33, 0.67, 100.13, 7.0], "score": 0.12346},
        {"image_id": 2**40, "category_id": 1, "bbox": [0.0, 0.0, 640.0, 480.0], "score": 1.0},
    ]
    assert target.write(iter([])) == 0
    assert json.loads(target.file.read_text()) == []


@pytest.mark.parametrize("name", ["coco boxes", "coco masks", "lvis masks"])
def test_it_scores_as_what_it_was_made_of(name: str, tmp_path: Path) -> None:
    rules = RULES[name]
    truth, found = case(rules)
    target = submission(tmp_path / "x.json", rules.iou_type)
    target.write(iter(found.values()))
    everything = Results.joined([results for results in found.values() if len(results)])
    again = read_results(target.file, iou_type=rules.iou_type)
    # Coordinates and scores of these cases have few decimals, so that rounding changes nothing.
    assert score(truth, again, rules=rules) == score(truth, everything, rules=rules)
    assert ("bbox" in json.loads(target.file.read_text())[0]) is (rules.iou_type == "bbox")


def test_a_failure_leaves_what_was_there(tmp_path: Path) -> None:
    target = submission(tmp_path / "x.zip")
    target.file.write_text("before")

    def broken() -> object:
        yield Results.of(np.zeros((1, 7)))
        raise RuntimeError("out of memory")

    with pytest.raises(RuntimeError):
        target.write(broken())  # type: ignore[arg-type]
    assert target.file.read_text() == "before"
    assert [path.name for path in tmp_path.iterdir()] == ["x.zip"]


def test_a_name_without_a_format_and_a_place_that_cannot_be(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"Name it x\.zip"):
        submission(tmp_path / "x").check()
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="cannot be written"):
        submission(tmp_path / "file" / "x.zip").check()
