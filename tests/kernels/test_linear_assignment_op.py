"""Linear assignment as an operator of torch: compile, export, autograd; and what the host's form does."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch
from codetr_kernels import linear_assignment
from codetr_kernels.linear_assignment.op import linear_assignment as operator
from samples import DEVICE
from torch import Tensor, nn


def example(repeat: int = 1) -> tuple[Tensor, Tensor, int]:
    return torch.randn(3, 2, 5, device=DEVICE), torch.tensor([2, 1, 0], device=DEVICE), repeat


@pytest.mark.literal
@pytest.mark.parametrize("repeat", [1, 2])
def test_opcheck(repeat: int) -> None:
    cost, num, repeat = example(repeat)
    tests = ("test_schema", "test_faketensor", "test_aot_dispatch_dynamic", "test_autograd_registration")
    torch.library.opcheck(operator, (cost, num, repeat), test_utils=tests)
    torch.library.opcheck(operator, (cost[:, :0], num, repeat), test_utils=("test_schema", "test_faketensor"))


@pytest.mark.literal
def test_costs_that_require_a_gradient_give_integers_without_one() -> None:
    cost, num, _ = example()
    logits = torch.randn(3, 2, 5, device=DEVICE, requires_grad=True)
    assigned, status = linear_assignment(logits * cost, num, return_status=True)
    assert not assigned.requires_grad and not status.requires_grad
    # What is gathered with it still has gradients.
    logits.gather(2, assigned.clamp(min=0)[..., None]).sum().backward()
    assert logits.grad is not None and logits.grad.sum() == assigned.numel()


@pytest.mark.literal
def test_compile_in_one_graph() -> None:
    def step(cost: Tensor, num: Tensor) -> tuple[Tensor, Tensor]:
        assigned, status = linear_assignment(cost.square(), num, repeat=2, return_status=True)
        return assigned + 1, status

    cost, num, _ = example()
    compiled = torch.compile(step, fullgraph=True, backend="aot_eager")
    for one in (cost, cost.requires_grad_()):
        for found, wanted in zip(compiled(one, num), step(one, num), strict=True):
            assert torch.equal(found, wanted)


@pytest.mark.literal
def test_export_with_any_sizes() -> None:
    class Matcher(nn.Module):
        def forward(self, cost: Tensor, num: Tensor) -> Tensor:
            return linear_assignment(cost, num)

    problems, objects, queries = (torch.export.Dim(name, min=1, max=64) for name in ("P", "M", "N"))
    cost, num, _ = example()
    shapes = ({0: problems, 1: objects, 2: queries}, {0: problems})
    program = torch.export.export(Matcher(), (cost, num), dynamic_shapes=shapes)
    other, few = torch.randn(2, 4, 7, device=DEVICE), torch.tensor([4, 3], device=DEVICE)
    assert torch.equal(program.module()(other, few), linear_assignment(other, few))


def test_no_memory_is_needed_for_shapes() -> None:
    assigned, status = operator(torch.empty(4, 60, 900, device="meta"), torch.empty(4, device="meta").int(), 6)
    assert assigned.shape == (4, 360) and assigned.dtype == torch.int64 and assigned.device.type == "meta"
    assert status.shape == (4,) and status.dtype == torch.int32


def test_scipy_is_imported_when_it_is_needed() -> None:
    code = "import sys, codetr_kernels; sys.exit('scipy' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_the_costs_reach_the_host_in_one_copy(monkeypatch: pytest.MonkeyPatch) -> None:
    copies: list[torch.Size] = []
    plain = Tensor.cpu

    def counted(tensor: Tensor) -> Tensor:
        copies.append(tensor.shape)
        return plain(tensor)

    from codetr_kernels.linear_assignment.reference import linear_assignment_reference

    monkeypatch.setattr(Tensor, "cpu", counted)
    linear_assignment_reference(*example())
    assert copies == [(3, 2, 5)]
