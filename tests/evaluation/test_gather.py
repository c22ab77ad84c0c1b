from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from two_ranks import alone

from codetr.evaluation.gather import is_distributed


def test_one_process_is_not_distributed() -> None:
    assert not is_distributed()


@pytest.fixture(scope="module")
def answers(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """What two real processes answer; see two_ranks.py."""
    script, store = Path(__file__).with_name("two_ranks.py"), tmp_path_factory.mktemp("store") / "store"
    commands = [[sys.executable, str(script), str(rank), str(store)] for rank in range(2)]
    processes = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for command in commands]
    outputs = [process.communicate(timeout=120)[0] for process in processes]
    assert [process.returncode for process in processes] == [0, 0]
    return [json.loads(output) for output in outputs]


def test_every_rank_has_the_figures_of_one_process_bit_for_bit(answers: list[dict[str, Any]]) -> None:
    expected = alone()
    assert all(figures[0][0] > 0.05 for figures in expected.values())
    assert answers[0]["figures"] == expected
    assert answers[1]["figures"] == expected


def test_only_the_leader_gets_what_the_others_have(answers: list[dict[str, Any]]) -> None:
    assert [answer["contents"] for answer in answers] == [["", "abc"], []]


def test_a_failure_of_the_leader_does_not_leave_the_others_waiting(answers: list[dict[str, Any]]) -> None:
    assert answers[0]["failure"] == "no figures"
    assert "Rank 0 could not evaluate" in answers[1]["failure"]
