"""The chart."""

from __future__ import annotations

from pathlib import Path

import pytest

from codetr.bench.chart import draw, ratios
from codetr.bench.measuring import Row
from codetr.bench.timing import Times
from codetr.errors import UserError


def timed(candidate: str, forward: float, step: float, problem: str = "one") -> Row:
    return Row(
        problem, "op", candidate, "timed", forward=Times(forward, forward, 3), step=Times(step, step, 3), backward=0.0
    )


ROWS = [timed("codetr", 2, 10), timed("reference", 8, 30), Row("one", "op", "mmcv", "wrong", "output")]


def test_ratios_are_the_peers_time_by_the_candidates() -> None:
    assert ratios(ROWS, chain="op", figure="forward", against="reference") == {"one": {"codetr": 4.0}}
    assert ratios(ROWS, chain="op", figure="step", against="codetr") == {"one": {"reference": pytest.approx(1 / 3)}}
    assert ratios(ROWS, chain="whole", figure="step", against="codetr") == {}
    assert ratios([*ROWS, timed("codetr", 1, 1, "two")], chain="op", figure="step", against="reference").keys() == {
        "one"
    }


@pytest.mark.parametrize("problems", [1, 6])
def test_a_picture_is_written(tmp_path: Path, problems: int) -> None:
    pytest.importorskip("matplotlib")
    rows = [row for i in range(problems) for row in (timed("codetr", 2, 10, str(i)), timed("reference", 3, 9, str(i)))]
    draw(rows, tmp_path / "new" / "chart.png", against="reference", subtitle="a CPU")
    assert (tmp_path / "new" / "chart.png").read_bytes().startswith(b"\x89PNG")


def test_a_peer_that_was_not_timed(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    with pytest.raises(UserError, match="timed were: codetr, reference"):
        draw(ROWS, tmp_path / "chart.png", against="mmcv", subtitle="")
