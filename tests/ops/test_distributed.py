"""What ranks agree on."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import torch

from codetr.ops.distributed import divisor, largest_over_ranks, max_over_ranks

SCRIPT = """
import sys, torch, torch.distributed as dist
from codetr.ops.distributed import divisor, largest_over_ranks, max_over_ranks
rank = int(sys.argv[1])
dist.init_process_group("gloo", init_method="file://" + sys.argv[2], rank=rank, world_size=2)
value = torch.tensor([2.0 + 4.0 * rank, 0.0, 0.5 * rank, 1.0 - rank, 1.0], requires_grad=True)
before = value.tolist()
found = divisor(value)
# Sums 8, 0, 0.5, 1 and 2 are at least 1; two ranks divide by half of that.
assert found.tolist() == [4.0, 0.5, 0.5, 0.5, 1.0] and value.tolist() == before and not found.requires_grad, found
most = torch.tensor([3 - rank, rank])
assert max_over_ranks(most).tolist() == [3, 1] and most.tolist() == [3 - rank, rank]
assert largest_over_ranks(7 * rank) == 7 and largest_over_ranks(-rank) == 0
dist.destroy_process_group()
"""


def test_one_process_is_alone() -> None:
    value = torch.tensor([3.0, 0.25, 0.0], requires_grad=True)
    found = divisor(value)
    assert found.tolist() == [3.0, 1.0, 1.0] and not found.requires_grad
    assert max_over_ranks(value).tolist() == value.tolist()
    assert largest_over_ranks(5) == 5


def test_two_processes(tmp_path: Path) -> None:
    ranks = [
        subprocess.Popen(
            [sys.executable, "-c", SCRIPT, str(rank), str(tmp_path / "store")], stderr=subprocess.PIPE, text=True
        )
        for rank in range(2)
    ]
    errors = [process.communicate()[1] for process in ranks]
    assert [process.returncode for process in ranks] == [0, 0], errors
