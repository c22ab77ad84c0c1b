"""Suppression as operators of torch: fake tensors, compile, export, autocast, no gradient."""

from __future__ import annotations

import pytest
import torch
from codetr_kernels import batched_nms, soft_nms
from samples import DEVICE
from suppression import Scored, random, scored
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode


class Suppression(nn.Module):
    """What a head does: suppress, and take what was kept."""

    def forward(self, boxes: Tensor, scores: Tensor, groups: Tensor, valid: Tensor) -> tuple[Tensor, ...]:
        index, kept = batched_nms(boxes, scores * 2, groups, valid, iou_threshold=0.5, limit=5)
        taken = boxes.gather(1, index.unsqueeze(2).expand(-1, -1, 4)) * kept.unsqueeze(2)
        return taken, *soft_nms(boxes, scores, groups, valid, method="gaussian", limit=4)


def equal(found: tuple[Tensor, ...], wanted: tuple[Tensor, ...]) -> bool:
    return all(torch.equal(a, b) for a, b in zip(found, wanted, strict=True))


@pytest.mark.literal
def test_operators_are_registered_as_torch_wants_them() -> None:
    problem = random(2, 7)
    ops = torch.ops.codetr_kernels
    torch.library.opcheck(ops.batched_nms.default, (*problem.arguments(), 0.5, 5))
    torch.library.opcheck(ops.soft_nms.default, (*problem.arguments(), "linear", 0.5, 0.5, 0.001, 5))


@pytest.mark.parametrize("count", [0, 3, 9])
def test_shapes_are_known_without_data(count: int) -> None:
    problem = random(2, count)
    with FakeTensorMode() as mode:
        fake = [mode.from_tensor(tensor) for tensor in problem.arguments()]
        found = [*batched_nms(*fake, iou_threshold=0.5, limit=5), *soft_nms(*fake, limit=5)]
    real = [*batched_nms(*problem.arguments(), iou_threshold=0.5, limit=5), *soft_nms(*problem.arguments(), limit=5)]
    assert [(f.shape, f.dtype, f.device) for f in found] == [(r.shape, r.dtype, r.device) for r in real]
    assert found[0].shape == (2, min(5, count))


@pytest.mark.literal
def test_compiled_without_a_break() -> None:
    module, inputs = Suppression(), random(2, 7).arguments()
    compiled = torch.compile(module, fullgraph=True, backend="inductor" if DEVICE == "cuda" else "aot_eager")
    assert equal(compiled(*inputs), module(*inputs))


def test_exported_with_any_number_of_boxes() -> None:
    module, inputs = Suppression(), random(2, 9).arguments()
    count = torch.export.Dim("count", min=2, max=64)
    exported = torch.export.export(module, inputs, dynamic_shapes=({1: count},) * 4)
    names = [str(node.target) for node in exported.graph.nodes if "codetr_kernels" in str(node.target)]
    assert names == ["codetr_kernels.batched_nms.default", "codetr_kernels.soft_nms.default"]
    # More boxes than the limits, and fewer.
    for others in (random(2, 20).arguments(), random(2, 3).arguments()):
        assert equal(exported.module()(*others), module(*others))


def test_scores_and_boxes_that_need_a_gradient_get_none() -> None:
    boxes, scores, groups, valid = random(1, 6).arguments()
    boxes, scores = boxes.requires_grad_(), scores.requires_grad_()
    found = [
        *batched_nms(boxes, scores, groups, valid, iou_threshold=0.5, limit=5),
        *soft_nms(boxes, scores, groups, valid, limit=5),
    ]
    assert not any(tensor.requires_grad for tensor in found)


def test_autocast_changes_nothing() -> None:
    module, inputs = Suppression(), random(2, 30).arguments()
    wanted = module(*inputs)
    with torch.autocast(DEVICE, torch.bfloat16):
        assert equal(module(*inputs), wanted)


def test_inputs_stay_as_they_are() -> None:
    problem = scored([[0.0, 0, 10, 10], [float("nan")] * 4], [float("nan"), 0.5], valid=[True, False])
    before = Scored(*(tensor.clone() for tensor in problem.arguments()))
    Suppression()(*problem.arguments())
    for a, b in zip(problem.arguments(), before.arguments(), strict=True):
        torch.testing.assert_close(a, b, equal_nan=True, rtol=0, atol=0)
