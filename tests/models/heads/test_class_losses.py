"""The class losses that heads may have besides their own: quality focal, federated, binary cross-entropy."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from one_stage import LN2, LOSSES, build, constant, four_cells, one_object, plain_entropy, plain_overlap, rows, sigmoid
from pydantic import ValidationError
from torch import Tensor, nn

from codetr.models.parts.positive_sampler import PositiveSampler
from codetr.models.parts.roi_stage import RoiConfig
from codetr.registry import find
from codetr.structures import HeadOutput, Pyramid, Targets

Objects = Callable[[str], Targets]
FOCAL_HEADS = ("atss", "retinanet", "fcos", "paa")
SMALL = {"rpn": {"channels": 32, "train_candidates": 50, "train_proposals": 30}, "roi": {"hidden": 32, "samples": 16}}


def test_quality_focal_loss_by_hand() -> None:
    """The scene of `test_retinanet.test_losses_by_hand`: the positive's box overlaps its object by 32 / 152, all
    probabilities are 1/2, so that a cross-entropy is log 2 whatever its target; five entries are to be 0."""
    one_square = {"anchor_scale": 1, "scales_per_octave": 1, "ratios": [1.0]}
    head = constant("retinanet", box=[0.5, 0, 0, 0], class_loss="quality_focal", **one_square)
    losses = head(four_cells(), one_object(-3, 4, 12, 12)).losses
    assert losses["cls"].item() == pytest.approx(LN2 * ((32 / 152 - 0.5) ** 2 + 5 / 4), rel=1e-6)


@pytest.mark.parametrize("name", FOCAL_HEADS)
def test_quality_focal_loss_in_plain_loops(name: str, pyramid: Pyramid, objects: Objects) -> None:
    targets = objects("both")
    head = build(name, class_loss="quality_focal", gamma=1.5)
    output = head._output(pyramid)
    gt_index = head.assign(output, targets)
    total, positives = 0.0, 0
    for b, p, label, box in rows(gt_index, targets):
        positives += label >= 0
        for k, logit in enumerate(output.logits[b, p].tolist()):
            wanted = plain_overlap(output.boxes[b, p].tolist(), box)[0] if k == label else 0.0
            total += abs(sigmoid(logit) - wanted) ** 1.5 * plain_entropy(logit, wanted)
    found = head(pyramid, targets).losses["cls"]
    least = len(targets.counts) if name in ("atss", "retinanet", "paa") else 1
    assert found.item() == pytest.approx(total / max(positives, least), rel=1e-4)  # float32 sums of 1e3 numbers
    (slope,) = torch.autograd.grad(found, head.box.weight, allow_unused=True)
    assert slope is None  # the overlap is a target


def test_settings_that_do_nothing_are_refused() -> None:
    with pytest.raises(ValidationError, match="alpha belongs to class_loss: focal"):
        build("atss", class_loss="quality_focal", alpha=0.5)
    with pytest.raises(ValidationError, match="gamma must be at least 1"):
        build("fcos", class_loss="quality_focal", gamma=0.5)
    with pytest.raises(ValidationError, match="federated needs class_loss: sigmoid"):
        RoiConfig(federated=True)


def counted(targets: Targets, drop: int) -> Targets:
    """All classes of each image count but one, which it has not, where there is one."""
    classes = torch.ones(len(targets.counts), 5, dtype=torch.bool)
    classes[:, drop] = False
    return replace(targets, counted_classes=classes)


def absent(targets: Targets) -> int:
    return min(set(range(5)) - set(targets.labels[targets.valid].tolist()))


def run(head: nn.Module, pyramid: Pyramid, targets: Targets) -> tuple[HeadOutput, Tensor, Tensor]:
    """What it gives, and the gradients of its class loss in the last class layer."""
    layer = head.get_submodule("roi.cls" if hasattr(head, "roi") else "cls")
    output = head(pyramid, targets)
    weight, bias = torch.autograd.grad(output.losses["cls"], [layer.weight, layer.bias])
    return output, weight, bias


def two_stage(**roi: object) -> nn.Module:
    component = find("heads", "faster_rcnn")
    config = component.Config.model_validate({**SMALL, "roi": {**SMALL["roi"], **roi}})
    return component(config, dim=32, num_classes=5, strides=(8, 16, 32, 64), sampler=PositiveSampler())


@pytest.mark.parametrize("name", [*LOSSES, "faster_rcnn"])
def test_a_class_that_does_not_count_learns_nothing(name: str, pyramid: Pyramid, objects: Objects) -> None:
    torch.manual_seed(0)
    sigmoid_classes = {"class_loss": "sigmoid", "federated": True}
    head = two_stage(**sigmoid_classes) if name == "faster_rcnn" else build(name, federated=True)
    targets = replace(objects("both"), seeds=torch.tensor([1, 2]))
    gone = absent(targets)
    full, *slopes_of_all = run(head, pyramid, targets)
    some, *slopes = run(head, pyramid, counted(targets, gone))
    assert some.losses["cls"] < full.losses["cls"]
    for all_rows, rows_left in zip(slopes_of_all, slopes, strict=True):
        all_rows, rows_left = (grad.unflatten(0, (-1, 5)) for grad in (all_rows, rows_left))
        assert (rows_left[:, gone] == 0).all() and (all_rows[:, gone] != 0).any()
        others = [k for k in range(5) if k != gone]
        torch.testing.assert_close(rows_left[:, others], all_rows[:, others])
    # Assignment, and with it the positives, looks at all classes.
    torch.testing.assert_close(some.positives.boxes, full.positives.boxes, rtol=0, atol=0)
    if name != "gfl":  # whose box losses are weighted by the highest score, of the classes that count
        for term in set(full.losses) - {"cls"}:
            assert some.losses[term] == full.losses[term]


@pytest.mark.parametrize("name", [*LOSSES, "faster_rcnn"])
def test_without_the_setting_all_classes_count(name: str, pyramid: Pyramid, objects: Objects) -> None:
    torch.manual_seed(0)
    head = two_stage(class_loss="sigmoid") if name == "faster_rcnn" else build(name)
    targets = replace(objects("both"), seeds=torch.tensor([1, 2]))
    full, some = head(pyramid, targets), head(pyramid, counted(targets, absent(targets)))
    assert {k: v.item() for k, v in full.losses.items()} == {k: v.item() for k, v in some.losses.items()}
