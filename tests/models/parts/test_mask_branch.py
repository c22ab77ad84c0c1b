"""The mask branch: parameters, its loss on small numbers, and the published forms beside it."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.models.detection.roi_heads import maskrcnn_loss

from codetr.errors import UserError
from codetr.models.parts.mask_branch import MaskBranch, MaskBranchConfig
from codetr.models.parts.roi_stage import Regions, RoiConfig, RoiStage
from codetr.ops.masks import crop_masks
from codetr.structures import Pyramid, Targets

K = 5
STRIDES = (8, 16, 32)


def branch(**settings: object) -> MaskBranch:
    torch.manual_seed(0)
    config = MaskBranchConfig.model_validate({"channels": 16, "stacked_convs": 2, **settings})
    return MaskBranch(config, dim=8, num_classes=K)


def stage(samples: int = 8) -> RoiStage:
    config = RoiConfig(hidden=4, samples=samples, positive_fraction=0.5)
    return RoiStage(config, dim=8, num_classes=K, strides=STRIDES)


def scene() -> tuple[Pyramid, Targets, Regions]:
    """One image with two objects; four regions, the first three positive, of the second, first and second object."""
    torch.manual_seed(1)
    maps = tuple(torch.randn(1, 8, 64 // s, 64 // s, requires_grad=True) for s in STRIDES)
    masks = torch.zeros(2, 64, 64, dtype=torch.bool)
    masks[0, 4:20, 4:36], masks[1, 30:60, 30:60] = True, True
    masks[1, 30:40, 30:40] = False
    boxes = torch.tensor([[[4.0, 4, 36, 36], [30, 30, 60, 60]]])
    targets = Targets(
        boxes, torch.tensor([[1, 3]]), torch.ones(1, 2).bool(), (2,), crop_masks(masks, boxes[0]).unsqueeze(0)
    )
    regions = torch.tensor([[[28.0, 32, 58, 60], [4, 4, 36, 36], [30, 30, 60, 60], [0, 40, 20, 60]]])
    index = torch.tensor([[1, 0, 1, -1]])
    labels = torch.tensor([[3, 1, 3, K]])
    valid = torch.ones(1, 4, dtype=torch.bool)
    return (
        Pyramid(maps, STRIDES, torch.tensor([[64.0, 64.0]])),
        targets,
        Regions(regions, index, labels, regions, valid),
    )


def test_published_parameters() -> None:
    """Four convolutions, one that doubles the resolution, and a mask for each of 80 classes: 2.64 M."""
    full = MaskBranch(MaskBranchConfig(), dim=256, num_classes=80)
    assert sum(p.numel() for p in full.parameters()) == 4 * (9 * 256 * 256 + 256) + (4 * 256 * 256 + 256) + 80 * 257
    assert [name for name, _ in branch(stacked_convs=1).named_parameters()] == [
        f"{layer}.{kind}" for layer in ("convs.0", "upsample", "logits") for kind in ("weight", "bias")
    ]


def test_each_region_has_the_mask_of_its_class() -> None:
    """What the published branch computes for all classes, and then picks one of."""
    ours = branch()
    nn.init.normal_(ours.logits.bias)
    features, labels = torch.randn(2, 3, 8, 14, 14), torch.tensor([[0, 4, 2], [2, 2, 1]])
    hidden = features.flatten(0, 1)
    for layer in ours.convs:
        hidden = F.relu(layer(hidden))
    every = ours.logits(F.relu(ours.upsample(hidden))).unflatten(0, (2, 3))
    expected = torch.stack([torch.stack([every[b, s, labels[b, s]] for s in range(3)]) for b in range(2)])
    found = ours(features, labels)
    assert found.shape == (2, 3, 28, 28)
    torch.testing.assert_close(found, expected)


def test_a_logit_of_zero_costs_ln_2() -> None:
    ours = branch(weight=2.0)
    nn.init.zeros_(ours.logits.weight)
    pyramid, targets, regions = scene()
    loss = ours.losses(stage(), pyramid, regions, targets)["mask"]
    assert loss.item() == pytest.approx(2 * math.log(2), rel=1e-6)


def test_the_loss_is_that_of_torchvision() -> None:
    """Which makes its targets of all pixels."""
    ours, roi = branch(), stage()
    pyramid, targets, regions = scene()
    found = ours.losses(roi, pyramid, regions, targets)["mask"]
    few = slice(3)
    labels = regions.labels[:, few]
    logits = ours(roi.pool(pyramid, regions.boxes[:, few], output_size=14), labels)[0]
    every = torch.full((3, K, 28, 28), 9.0).scatter(
        1, labels[0, :, None, None, None].expand(-1, 1, 28, 28), logits[:, None]
    )
    masks = torch.zeros(2, 64, 64)
    masks[0, 4:20, 4:36], masks[1, 30:60, 30:60] = 1, 1
    masks[1, 30:40, 30:40] = 0
    own_labels, index = torch.tensor([1, 3]), torch.tensor([1, 0, 1])
    expected = maskrcnn_loss(every, [regions.boxes[0, few] - 0.5], [masks], [own_labels], [index])
    # In the cells on an outline, about 4 x 28 of 784, its targets are shares of the object, and ours 0 or 1.
    assert found.item() == pytest.approx(expected.item(), rel=0.05)


def test_negatives_and_padding_have_no_part() -> None:
    ours, roi = branch(), stage()
    pyramid, targets, regions = scene()
    loss = ours.losses(roi, pyramid, regions, targets)["mask"]
    invalid = regions.valid.clone()
    invalid[0, 2] = False
    fewer = Regions(regions.boxes, regions.gt_index, regions.labels, regions.targets, invalid)
    terms = []
    for number in range(3):
        one = torch.zeros(1, 4, dtype=torch.bool)
        one[0, number] = True
        alone = Regions(regions.boxes, regions.gt_index, regions.labels, regions.targets, one)
        terms.append(ours.losses(roi, pyramid, alone, targets)["mask"])
    torch.testing.assert_close(loss, torch.stack(terms).mean())
    torch.testing.assert_close(ours.losses(roi, pyramid, fewer, targets)["mask"], torch.stack(terms[:2]).mean())


def test_targets_of_the_second_image_are_its_own() -> None:
    ours, roi = branch(), stage()
    pyramid, targets, regions = scene()
    assert targets.mask_crops is not None

    def twice(tensor: Tensor, *, other: Tensor | None = None) -> Tensor:
        return torch.cat([tensor if other is None else other, tensor])

    empty = torch.zeros_like(regions.valid)
    both = Regions(
        *(twice(t) for t in (regions.boxes, regions.gt_index, regions.labels, regions.targets)),
        twice(regions.valid, other=empty),
    )
    crops = twice(targets.mask_crops, other=255 - targets.mask_crops)
    more = Targets(twice(targets.boxes), twice(targets.labels), twice(targets.valid), (2, 2), crops)
    wide = Pyramid(tuple(twice(m) for m in pyramid.maps), STRIDES, twice(pyramid.sizes))
    torch.testing.assert_close(
        ours.losses(roi, wide, both, more)["mask"], ours.losses(roi, pyramid, regions, targets)["mask"]
    )


def test_targets_without_masks_are_told() -> None:
    pyramid, targets, regions = scene()
    bare = Targets(targets.boxes, targets.labels, targets.valid, targets.counts)
    with pytest.raises(UserError, match=r"set data\.masks=true"):
        branch().losses(stage(), pyramid, regions, bare)
