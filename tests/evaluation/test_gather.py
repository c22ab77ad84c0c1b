from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from codetr.evaluation.gather import first_of_each_image, is_distributed


def rows(*images: int, score: float) -> torch.Tensor:
    return torch.tensor([[image, 0, 0, 1, 1, score, 1] for image in images], dtype=torch.float64).reshape(-1, 7)


def test_an_image_of_two_ranks_counts_once() -> None:
    kept = first_of_each_image([rows(3, 3, 5, score=0.1), rows(score=0), rows(5, 7, score=0.2), rows(7, 3, score=0.3)])
    assert kept[:, [0, 5]].tolist() == [[3, 0.1], [3, 0.1], [5, 0.1], [7, 0.2]]


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


def test_every_rank_has_the_figures_of_all_images(answers: list[dict[str, Any]]) -> None:
    # Both ranks have image 3, and only the second of them a wrong box on it; it counts once, as the first saw it.
    assert answers[0]["figures"] == answers[1]["figures"] == answers[0]["alone"]
    assert answers[0]["figures"]["AP"] > 0


def test_no_detections_on_a_rank_are_no_obstacle(answers: list[dict[str, Any]]) -> None:
    assert answers[0]["empty"] == answers[1]["empty"] == 0


def test_a_failure_of_the_leader_does_not_leave_the_others_waiting(answers: list[dict[str, Any]]) -> None:
    assert "category ids" in answers[0]["failure"]
    assert "Rank 0 could not evaluate" in answers[1]["failure"]
