"""The CUDA stand-in for the original extension: it compiles anywhere, and on a GPU it computes the operation."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch

from codetr.bench.original import gather_rows, original

COMPILE = """
from codetr.bench.original import SOURCE
from torch.cuda._utils import _nvrtc_compile
for name in ("forward_kernel", "backward_kernel", "gather_kernel"):
    binary, symbol = _nvrtc_compile(SOURCE, name, compute_capability="90")
    assert symbol == name, symbol
    assert len(binary) > 1000
"""


def test_the_source_compiles_without_a_gpu() -> None:
    if torch.version.cuda is None:
        pytest.skip("this torch has no NVRTC")
    done = subprocess.run([sys.executable, "-c", COMPILE], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@pytest.mark.gpu
@pytest.mark.parametrize("channels", [32, 6])
def test_it_computes_the_operation(channels: int) -> None:
    from codetr.bench.candidates import Candidate, whole_of
    from codetr.bench.correctness import check, find_truth
    from codetr.bench.problems import Problem, make_inputs

    device = torch.device("cuda")
    inputs = make_inputs(Problem("tiny", ((9, 13), (5, 7)), 2, None, torch.float32, 2, channels), device)
    candidate = Candidate("original-style", original, whole_of(original))
    assert check(candidate, inputs, "op", find_truth(inputs, "op")).faults == []


@pytest.mark.gpu
def test_gathered_rows_are_summed() -> None:
    table = torch.randn(50, 16, device="cuda")
    index = torch.randint(50, (9, 64), device="cuda", dtype=torch.int32)
    # 64 float32 numbers of size 1 to 4, in whatever order.
    torch.testing.assert_close(gather_rows(table, index), table[index.long()].sum(1), atol=1e-4, rtol=0)
