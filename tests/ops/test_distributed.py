"""The mean over ranks."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import torch

from codetr.ops.distributed import mean_over_ranks

SCRIPT = """
import sys, torch, torch.distributed as dist
from codetr.ops.distributed import mean_over_ranks
rank = int(sys.argv[1])
dist.init_process_group("gloo", init_method="file://" + sys.argv[2], rank=rank, world_size=2)
value = torch.tensor([2.0 + 4.0 * rank], requires_grad=True)
mean = mean_over_ranks(value)
assert mean.tolist() == [4.0] and value.tolist() == [2.0 + 4.0 * rank] and not mean.requires_grad, mean
dist.destroy_process_group()
"""


def test_one_process_keeps_the_value() -> None:
    value = torch.tensor(3.0, requires_grad=True)
    mean = mean_over_ranks(value)
    assert mean.item() == 3 and not mean.requires_grad


def test_two_processes(tmp_path: Path) -> None:
    ranks = [
        subprocess.Popen(
            [sys.executable, "-c", SCRIPT, str(rank), str(tmp_path / "store")], stderr=subprocess.PIPE, text=True
        )
        for rank in range(2)
    ]
    errors = [process.communicate()[1] for process in ranks]
    assert [process.returncode for process in ranks] == [0, 0], errors
