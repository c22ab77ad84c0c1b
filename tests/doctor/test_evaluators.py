"""The evaluators on the example, and what is said of broken ones."""

from __future__ import annotations

import pytest

from codetr.doctor.evaluators import EXPECTED, check_evaluators, example, judge_evaluators


@pytest.mark.parametrize("name", ["hotcoco", "pycocotools"])
def test_the_example(name: str) -> None:
    assert example(name) == pytest.approx(EXPECTED, abs=1e-12)


def test_they_agree() -> None:
    (row,) = check_evaluators()
    assert (row.verdict, row.found) == (
        "ok",
        "hotcoco and pycocotools agree: AP 0.75 of an example with two boxes",
    )


def test_one_that_is_missing() -> None:
    row = judge_evaluators({"hotcoco": "hotcoco is not installed", "pycocotools": 0.75})
    assert row.verdict == "failure"
    assert row.found == "hotcoco is not installed; pycocotools stands in, more slowly"
    assert row.fix.endswith("--no-deps hotcoco")
    row = judge_evaluators({"hotcoco": 0.75, "pycocotools": "pycocotools cannot be imported (ValueError: numpy.dtype)"})
    assert "stands in" not in row.found
    assert row.fix.endswith("--no-deps pycocotools")


def test_one_that_is_wrong() -> None:
    row = judge_evaluators({"hotcoco": 0.75, "pycocotools": 0.74})
    assert (row.verdict, row.found) == ("failure", "pycocotools gives AP 0.7400, not 0.75")
    assert row.fix.endswith("--no-deps pycocotools")
    assert judge_evaluators({"hotcoco": float("nan"), "pycocotools": 0.75}).verdict == "failure"
