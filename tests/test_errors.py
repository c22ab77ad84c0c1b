"""What an error message proposes."""

from __future__ import annotations

import pytest

from codetr.errors import ConfigError, nearest, suggestion

OPTIONS = ["atss", "faster_rcnn", "bases/deformable_detr", "score_threshold"]


@pytest.mark.parametrize(
    ("word", "option"),
    [
        ("ats", "atss"),
        ("ATSS", "atss"),
        ("faster_rcn", "faster_rcnn"),
        ("fasterrcnn", "faster_rcnn"),
        ("deformable_detr", "bases/deformable_detr"),
        ("threshold", "score_threshold"),
        ("zzz", None),
        ("", None),
    ],
)
def test_nearest(word: str, option: str | None) -> None:
    assert nearest(word, OPTIONS) == option


def test_without_a_near_one_all_are_named() -> None:
    assert suggestion("ats", OPTIONS) == "did you mean 'atss'?"
    assert suggestion("zzz", ["b", "a"], kind="keys") == "valid keys: a, b"
    assert suggestion("zzz", []) == "there are no valid values"


def test_one_problem_is_the_message() -> None:
    assert str(ConfigError(["a: wrong"])) == "a: wrong"
    assert str(ConfigError(["a: wrong", "b: too"])) == "2 errors in the settings:\n  a: wrong\n  b: too"
