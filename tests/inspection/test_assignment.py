"""Which priors belong to which object and level, and what is counted."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from codetr.inspection import assignment
from codetr.inspection.assignment import Branch, branches, head_branch, with_all_positives
from codetr.inspection.counting import Count, count_positives
from codetr.models.build import ModelSpec, build
from codetr.models.heads.contract import Head
from codetr.models.parts.priors import AnchorGrid
from codetr.structures import Batch, Detections, HeadOutput, ImageBatch, ImageInfo, Positives, Pyramid, Targets

BOXES = torch.tensor([[[0.0, 0, 40, 40], [0, 0, 40, 40], [60, 60, 70, 70], [0, 0, 0, 0]]])
TARGETS = Targets(BOXES, torch.tensor([[0, 1, 1, 0]]), torch.tensor([[True, True, True, False]]), (3,))
PYRAMID = Pyramid((torch.zeros(1, 4, 12, 12), torch.zeros(1, 4, 6, 6)), (8, 16), torch.tensor([[96.0, 96.0]]))


class Told(Head):
    """Hands over these positives: of the second object an anchor of each level, of the third one, and an empty slot."""

    def __init__(self, grid: AnchorGrid | None) -> None:
        super().__init__()
        if grid is not None:
            self.anchors = grid

    def forward(self, pyramid: Pyramid, targets: Targets) -> HeadOutput:
        centres = torch.tensor([[8.0, 8.0], [16.0, 16.0], [64.0, 64.0], [0.0, 0.0]])
        half = torch.tensor([[16.0], [32.0], [16.0], [1.0]])
        index = torch.tensor([[1, 1, 2, 3]])
        valid = torch.tensor([[True, True, True, False]])
        positives = Positives(
            torch.cat([centres - half, centres + half], 1)[None],
            torch.zeros(1, 4, 4),
            targets.labels.gather(1, index).masked_fill(~valid, 2),
            targets.boxes[:, index[0]],
            valid,
        )
        return HeadOutput({}, positives)

    def predict(self, pyramid: Pyramid) -> list[Detections]:
        raise NotImplementedError


def test_objects_and_levels_of_anchors() -> None:
    found = head_branch("told", "told", Told(AnchorGrid(4.0)), PYRAMID, TARGETS)
    # The first two objects have one box: the class tells which is meant.
    assert found.objects.tolist() == [1, 1, 2]
    assert found.levels is not None and found.levels.tolist() == [0, 1, 0]
    assert found.counts(3) == [0, 2, 1]
    assert found.level_counts(3) == [[0, 0], [1, 1], [1, 0]]
    assert found.form == "points" and not found.sampled
    assert found.boxes.tolist()[0] == [-8.0, -8.0, 24.0, 24.0]


def test_sizes_between_two_levels_belong_to_the_lower() -> None:
    """Two sizes a level: 23, 32 and 45, 64 pixels at a scale of 2.83 strides."""
    found = head_branch("told", "told", Told(AnchorGrid(4.0 / 2**0.5, scales_per_octave=2)), PYRAMID, TARGETS)
    assert found.levels is not None and found.levels.tolist() == [0, 1, 0]


def test_what_has_no_grid_has_boxes() -> None:
    found = head_branch("told", "told", Told(None), PYRAMID, TARGETS)
    assert found.form == "boxes" and found.levels is not None
    assert found.levels.tolist() == [0, 0, 0]  # regions of 64 pixels are pooled from a stride of 8


def test_a_head_with_masks_needs_none_here() -> None:
    """It is given empty ones, since the image was read without; those that there are stay."""

    class Masked(Told):
        has_masks = True

        def forward(self, pyramid: Pyramid, targets: Targets) -> HeadOutput:
            seen.append(targets.mask_crops)
            return super().forward(pyramid, targets)

    seen: list[Tensor | None] = []
    own = torch.ones(1, 4, 112, 112, dtype=torch.uint8)
    for targets in (TARGETS, replace(TARGETS, mask_crops=own)):
        assert head_branch("told", "told", Masked(None), PYRAMID, targets).counts(3) == [0, 2, 1]
    empty, kept = seen
    assert empty is not None and empty.shape == own.shape and empty.dtype == torch.uint8 and not empty.any()
    assert kept is own


def test_positives_are_counted_without_empty_slots() -> None:
    images = ImageBatch(torch.zeros(1, 3, 96, 96), torch.zeros(1, 96, 96, dtype=torch.bool), PYRAMID.sizes)
    batch = Batch(images, TARGETS, (ImageInfo(1, "a.jpg", (96, 96)),))
    found = count_positives({"told": Told(None)}, [batch, batch], (8, 16), dim=4)
    assert found == {"told": Count(positives=6, images=2, objects=6)}
    assert (found["told"].of_image, found["told"].of_object) == (3.0, 1.0)
    assert (Count(0, 0, 0).of_image, Count(0, 0, 0).of_object) == (0.0, 0.0)


def small_spec(**collaborative: object) -> ModelSpec:
    return ModelSpec.model_validate(
        {
            "base": {
                "name": "deformable_detr",
                "num_queries": 9,
                "encoder_layers": 1,
                "decoder_layers": 2,
                "num_heads": 4,
                "ffn_dim": 32,
                "dropout": 0.5,
            },
            "backbone": {
                "name": "resnet",
                "model": "resnet10t",
                "pretrained": False,
                "frozen_stages": -1,
                "stages": (2, 3, 4),
                "options": {"channels": (8, 16, 16, 16), "stem_width": 8},
            },
            "neck": {"name": "channel_mapper", "dim": 32, "num_levels": 3, "num_groups": 8},
            "heads": {"atss": {}, "faster_rcnn": {"rpn": {"channels": 32}, "roi": {"hidden": 32, "samples": 16}}},
            "collaborative": {"max_positives": 2, **collaborative},
        }
    )


def small_batch() -> Batch:
    generator = torch.Generator().manual_seed(1)
    pixels = torch.randn(1, 3, 96, 128, generator=generator)
    images = ImageBatch(pixels, torch.zeros(1, 96, 128, dtype=torch.bool), torch.tensor([[96.0, 128.0]]))
    boxes = torch.tensor([[[10.0, 10, 60, 70], [70, 30, 120, 80]]])
    targets = Targets(boxes, torch.tensor([[0, 3]]), torch.ones(1, 2, dtype=torch.bool), (2,))
    return Batch(images, targets, (ImageInfo(1, "a.jpg", (96, 128)),))


@pytest.mark.parametrize("fill", ["mask", "negatives"])
def test_every_positive_of_a_real_model(fill: str) -> None:
    spec = with_all_positives(small_spec(fill=fill))
    torch.manual_seed(0)
    model = build(spec, 4).train()
    batch = small_batch()
    matched, atss, rcnn = branches(model, batch, spec)
    assert model.training
    assert (matched.name, matched.kind, matched.levels) == ("hungarian", "deformable_detr", None)
    assert sorted(matched.objects.tolist()) == [0, 1] and matched.level_counts(2) == []
    assert (atss.name, atss.kind, atss.form) == ("atss", "atss", "points")
    assert atss.strides == (8, 16, 32, 64)
    assert min(atss.counts(2)) > 2  # more than become queries
    assert [sum(row) for row in atss.level_counts(2)] == atss.counts(2)
    assert all(_inside(centre, batch.targets.boxes[0, index]) for centre, index in _centres(atss))
    assert (rcnn.name, rcnn.form) == ("faster_rcnn", "boxes")
    assert 2 <= len(rcnn.boxes) <= 4 and rcnn.sampled == (len(rcnn.boxes) == 4)
    again = branches(model, batch, spec)
    assert all(torch.equal(a.boxes, b.boxes) for a, b in zip((matched, atss, rcnn), again, strict=True))


def _centres(branch: Branch) -> list[tuple[Tensor, int]]:
    middles = (branch.boxes[:, :2] + branch.boxes[:, 2:]) / 2
    return list(zip(middles, branch.objects.tolist(), strict=True))


def _inside(centre: Tensor, box: Tensor) -> bool:
    return bool((centre > box[:2]).all() and (centre < box[2:]).all())


def test_a_model_without_heads_has_the_matched_branch() -> None:
    spec = with_all_positives(small_spec().model_copy(update={"heads": {}}))
    model = build(spec, 4)
    found = branches(model, small_batch(), spec)
    assert [branch.name for branch in found] == ["hungarian"]
    assert isinstance(model.heads, nn.ModuleDict) and not model.heads


def test_the_matching_is_that_of_the_loss(monkeypatch: pytest.MonkeyPatch) -> None:
    """Queries that predict the objects exactly are the matched ones, whichever they are."""
    spec = with_all_positives(small_spec())
    torch.manual_seed(0)
    model = build(spec, 4).eval()
    batch = small_batch()
    decode = model.base.decode

    def told(memory: object, groups: object) -> object:
        output = decode(memory, groups)  # type: ignore[arg-type]
        boxes = output.boxes.clone()
        boxes[:] = torch.tensor([0.9, 0.9, 0.01, 0.01])
        logits = torch.full_like(output.logits, -9.0)
        for query, label, box in ((5, 0, [35, 40, 50, 60]), (2, 3, [95, 55, 50, 50])):
            for place in (query, query + 1):  # two with its box: the last layer has the class at the first one
                boxes[-1, 0, place] = torch.tensor(box) / torch.tensor([128.0, 96, 128, 96])
            logits[-1, 0, query, label], logits[0, 0, query + 1, label] = 9.0, 9.0
        return replace(output, boxes=boxes, logits=logits)

    monkeypatch.setattr(model.base, "decode", told)
    indices: list[Tensor] = []
    match = assignment.hungarian_match

    def noted(*args: Tensor, **options: object) -> Tensor:
        indices.append(match(*args, **options))  # type: ignore[arg-type]
        return indices[-1]

    monkeypatch.setattr(assignment, "hungarian_match", noted)
    matched = branches(model, batch, spec)[0]
    assert indices[0].tolist() == [[[-1, -1, 1, -1, -1, 0, -1, -1, -1]]]
    assert matched.objects.tolist() == [1, 0]
    torch.testing.assert_close(matched.boxes, torch.tensor([[70.0, 30, 120, 80], [10, 10, 60, 70]]))
