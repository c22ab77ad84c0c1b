"""A step of collaborative training asks the device nothing: every base, and every head.

Without a GPU, on fake tensors (`no_host.py`); `test_no_host_faults.py` proves that these catch what they should, and
`test_no_host_gpu.py` holds the kernels' own launches to it, as `tests/kernels` does.
"""

from __future__ import annotations

from typing import Any

import pytest
from every_base import tiny_model
from head_matrix import forms
from no_host import BACKWARD_DEVICE, fake_step
from small import HEADS, NUM_CLASSES, OTHER_HEADS, PLUS_PLUS, SMALL_RCNN, small_model, small_spec
from torch import Tensor, nn

from codetr.models.build import build
from codetr.models.collaborative import Collaborative
from codetr.registry import names

OPERATORS = ("batched_nms", "matching_cost", "linear_assignment")
EVERY_BASE = pytest.mark.parametrize("base", forms())
EVERY_HEAD = names("heads")


def without_gradient(model: nn.Module) -> list[str]:
    return [name for name, p in model.named_parameters() if p.requires_grad and p.grad is None]


def on_device(losses: dict[str, Tensor]) -> bool:
    return all(loss.shape == () and loss.device.type == "cuda" and loss.requires_grad for loss in losses.values())


@EVERY_BASE
def test_the_losses_of_every_base_are_made_on_the_device(base: str) -> None:
    model = tiny_model(base, NUM_CLASSES, heads=True)
    assert model.adapter is not None
    step = fake_step(model)
    for name in OPERATORS:
        assert f"codetr_kernels.{name}.default" in step.operators
    has_sampled = "codetr_kernels.deform_attention_fused.default" in step.operators
    assert has_sampled is not model.adapter.single_scale
    assert {"match.0.cls", "pos.atss.1.giou", "pos.faster_rcnn.0.l1", "atss.box", "faster_rcnn.rpn_cls"} < set(
        step.losses
    )
    assert on_device(step.losses)


@EVERY_BASE
def test_the_gradients_of_every_base_are_made_on_the_device(base: str) -> None:
    model = tiny_model(base, NUM_CLASSES, heads=True)
    assert model.adapter is not None
    step = fake_step(model, device=BACKWARD_DEVICE, backward=True)
    has_sampled = "codetr_kernels.deform_attention_fused_backward.default" in step.operators
    assert has_sampled is not model.adapter.single_scale
    assert without_gradient(model) == []


def with_heads(heads: str, **collaborative: Any) -> Collaborative:
    return small_model(PLUS_PLUS, {**HEADS, **OTHER_HEADS}[heads], **collaborative)


@pytest.mark.parametrize("fill", ["mask", "negatives"])
@pytest.mark.parametrize("head", EVERY_HEAD)
def test_the_losses_of_every_head_are_made_on_the_device(head: str, fill: str) -> None:
    step = fake_step(with_heads(head, fill=fill), masks=head == "mask_rcnn")
    assert {f"pos.{head}.1.giou", f"{head}.cls", f"{head}.box"} < set(step.losses)
    assert on_device(step.losses)
    assert "codetr_kernels.box_loss.default" in step.operators
    assert ("torchvision.roi_align.default" in step.operators) is head.endswith("_rcnn")
    assert ("mask_rcnn.mask" in step.losses) is (head == "mask_rcnn")


@pytest.mark.parametrize("head", EVERY_HEAD)
def test_the_gradients_of_every_head_are_made_on_the_device(head: str) -> None:
    model = with_heads(head)
    fake_step(model, device=BACKWARD_DEVICE, backward=True, masks=head == "mask_rcnn")
    assert without_gradient(model) == []


def test_the_losses_are_made_on_a_device_without_kernels() -> None:
    """But for the operators that then run on the host: suppression and assignment."""
    step = fake_step(with_heads("both"), kernels=False)
    assert on_device(step.losses)
    assert "codetr_kernels.deform_attention_fused.default" not in step.operators


def test_a_federated_loss_is_made_on_the_device() -> None:
    """Of the criterion, a one-stage head with quality focal loss, and a second stage of sigmoid classes."""
    roi = {**SMALL_RCNN["roi"], "class_loss": "sigmoid", "federated": True}
    heads = {
        "atss": {"federated": True, "class_loss": "quality_focal"},
        "faster_rcnn": {**SMALL_RCNN, "roi": roi},
    }
    spec = small_spec(PLUS_PLUS, heads)
    criterion = spec.criterion.model_copy(update={"federated": True})
    model = build(spec.model_copy(update={"criterion": criterion}), NUM_CLASSES)
    step = fake_step(model)
    assert on_device(step.losses)
    assert "aten.masked_fill.Scalar" in step.operators
    fake_step(model, device=BACKWARD_DEVICE, backward=True)
    assert without_gradient(model) == []
