"""Anchor DETR: its published size, its queries, its first predictions, and its part in collaborative training."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from small import HEADS, NUM_CLASSES, batch, small_spec

from codetr.models.build import ModelSpec, build
from codetr.models.collaborative import Collaborative
from codetr.spec import load_spec
from codetr.structures import Memory, QueryGroup

ANCHOR = {
    "name": "anchor_detr",
    "num_positions": 4,
    "num_patterns": 3,
    "encoder_layers": 2,
    "decoder_layers": 2,
    "num_heads": 4,
    "ffn_dim": 32,
}
KINDS = {"rcda": ANCHOR, "dense": {**ANCHOR, "attention": "dense"}}
kinds = pytest.mark.parametrize("kind", KINDS)

# One group's output against the same group's in other company: float32 sums in another order, on values near 1.
SAME = 1e-5


def spec_of(base: dict[str, Any], heads: dict[str, Any]) -> ModelSpec:
    """The small spec with the last map of the backbone alone."""
    settings = small_spec(base, heads).model_dump()
    settings["backbone"]["stages"] = (4,)
    settings["neck"] = {"name": "projection", "dim": 32, "num_groups": 8}
    return ModelSpec.model_validate(settings)


def fresh(base: dict[str, Any], heads: str = "none") -> Collaborative:
    torch.manual_seed(0)
    return build(spec_of(base, HEADS[heads]), NUM_CLASSES)


def moved(base: dict[str, Any], heads: str = "none") -> Collaborative:
    """With every parameter away from its initial value, so that order and gradients show."""
    model = fresh(base, heads)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    return model


def groups_of(model: Collaborative) -> tuple[Memory, list[QueryGroup]]:
    """Memory and every group that a training step puts into the decoder."""
    images, targets = batch()
    memory = model.base.encode(images)
    groups = list(model.base.propose(memory, targets).groups)
    for name, head in model.heads.items():
        groups.append(model._positive_group(name, head(model.adapter(memory), targets).positives, images.sizes))
    return memory, groups


# Counted on the official classes with ResNet-50 and 91 class ids: all parameters, and without stem and first stage.
@pytest.mark.parametrize(("name", "stride"), [("anchor_detr_r50", 32), ("anchor_detr_dc5_r50", 16)])
def test_published_parameter_counts(name: str, stride: int) -> None:
    with torch.device("meta"):
        model = build(load_spec(name), 91, pretrained=False)
    assert model.base.strides == (stride,)
    assert sum(p.numel() for p in model.parameters()) == 37_038_711
    assert sum(p.numel() for p in model.parameters() if p.requires_grad) == 36_816_311


@torch.no_grad()
def test_queries_are_all_points_with_one_pattern_after_another() -> None:
    base = fresh(ANCHOR).base
    images, targets = batch()
    memory = base.encode(images)
    for given in (targets, None):
        (group,) = base.propose(memory, given).groups
        assert group.name == "match" and group.pos is None
        assert group.content.shape == (2, 12, 32) and group.reference.shape == (2, 12, 2)
        for pattern in range(3):
            for point in range(4):
                assert torch.equal(group.content[1, 4 * pattern + point], base.patterns.weight[pattern])
                assert torch.equal(group.reference[1, 4 * pattern + point], base.points.weight[point])


@kinds
@torch.no_grad()
def test_boxes_start_at_their_points_with_an_eighth_of_the_image(kind: str) -> None:
    model = fresh(KINDS[kind]).eval()
    memory, groups = groups_of(model)
    output = model.base.decode(memory, groups)
    points = model.base.points.weight.repeat(3, 1).expand(2, 2, -1, -1).clamp(1e-5, 1 - 1e-5)
    # The sigmoid of a logit in float32.
    torch.testing.assert_close(output.boxes[..., :2], points, atol=1e-6, rtol=0)
    side = torch.full_like(points, 1 / (1 + math.exp(2)))
    torch.testing.assert_close(output.boxes[..., 2:], side, atol=1e-6, rtol=0)


def test_initial_values() -> None:
    """Points all over the image, patterns normal, a projection without bias, classes at one percent."""
    base = fresh({**ANCHOR, "num_positions": 2000, "num_patterns": 40}).base
    points, patterns = base.points.weight, base.patterns.weight
    assert 0 <= points.min() < 0.01 and 0.99 < points.max() <= 1
    # Standard errors: sqrt(1 / 12 / 2000) of the mean of points, sqrt(1 / 2 / 1280) of the deviation of patterns.
    assert (points.mean(0) - 0.5).abs().max() < 5 * math.sqrt(1 / 12 / 2000)
    assert abs(patterns.std().item() - 1) < 5 * math.sqrt(1 / 2 / 1280)
    conv = base.neck.conv
    bound = math.sqrt(6 / (conv.in_channels + conv.out_channels))
    assert 0.95 * bound < conv.weight.abs().max().item() <= bound
    assert torch.equal(conv.bias, torch.zeros(32))
    torch.testing.assert_close(base.heads.classes[0].bias.sigmoid(), torch.full((NUM_CLASSES,), 0.01))
    assert len(base.heads.classes) == len(base.heads.boxes) == 1


def test_a_positive_is_its_content_at_the_centre_of_its_box() -> None:
    base = fresh(ANCHOR).base
    embedding, boxes = torch.randn(2, 5, base.query_width * base.dim), torch.rand(2, 5, 4)
    content, pos, reference = base.adopt(embedding, boxes)
    assert content is embedding and pos is None
    assert torch.equal(reference, boxes[..., :2])


@kinds
@torch.no_grad()
def test_positives_leave_the_matched_branch_unchanged(kind: str) -> None:
    model = moved(KINDS[kind], "both")
    memory, groups = groups_of(model)
    assert [group.name for group in groups] == ["match", "pos.faster_rcnn", "pos.atss"]
    for group, part in zip(groups, model.base.decode(memory, groups).split(groups), strict=True):
        alone = model.base.decode(memory, [group])
        valid = torch.ones(group.content.shape[:2], dtype=torch.bool) if group.valid is None else group.valid
        torch.testing.assert_close(part.logits[:, valid], alone.logits[:, valid], atol=SAME, rtol=0)
        torch.testing.assert_close(part.boxes[:, valid], alone.boxes[:, valid], atol=SAME, rtol=0)


@kinds
@torch.no_grad()
def test_evaluation_equals_the_bare_base_bit_for_bit(kind: str) -> None:
    wrapped, bare = moved(KINDS[kind], "both").eval(), moved(KINDS[kind]).eval()
    bare.base.load_state_dict(wrapped.base.state_dict())
    images, _ = batch()
    for ours, theirs in zip(wrapped.predict(images), bare.predict(images), strict=True):
        assert torch.equal(ours.boxes, theirs.boxes)
        assert torch.equal(ours.scores, theirs.scores)
        assert torch.equal(ours.labels, theirs.labels)


@pytest.mark.parametrize("counts", [(3, 1), (2, 0), (0, 0)], ids=["objects", "one empty image", "no objects"])
@pytest.mark.parametrize("heads", ["none", "both"])
@kinds
def test_every_parameter_gets_a_finite_gradient(kind: str, heads: str, counts: tuple[int, int]) -> None:
    model = moved(KINDS[kind], heads).train()
    losses = model(*batch(counts))
    assert all(value.ndim == 0 and value.isfinite() for value in losses.values())
    torch.stack(list(losses.values())).sum().backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name
        # The small backbone has units that are never above zero.
        trained = counts == (3, 1) and name.startswith("base.") and "backbone" not in name
        assert not trained or parameter.grad.abs().sum() > 0, name


def test_more_objects_than_queries() -> None:
    model = moved({**ANCHOR, "num_positions": 1, "num_patterns": 2}).train()
    with pytest.warns(RuntimeWarning, match="has 5 objects but the group 'match' has 2 queries"):
        losses = model(*batch((5, 3)))
    assert all(value.isfinite() for value in losses.values())


def test_dropout_acts_in_training_alone() -> None:
    model = moved({**ANCHOR, "dropout": 0.3})
    memory, groups = groups_of(model)
    assert not torch.equal(model.base.decode(memory, groups).logits, model.base.decode(memory, groups).logits)
    model.eval()
    memory, groups = groups_of(model)
    assert torch.equal(model.base.decode(memory, groups).logits, model.base.decode(memory, groups).logits)


@kinds
def test_a_step_under_autocast(kind: str) -> None:
    """Boxes stay float32; all that is lost is precision of the contents."""
    model = moved(KINDS[kind], "atss").train()
    images, targets = batch()
    with torch.autocast("cpu", torch.bfloat16):
        losses = model(images, targets)
        memory, groups = groups_of(model)
        assert model.base.decode(memory, groups).boxes.dtype == torch.float32
    total = torch.stack([loss.float() for loss in losses.values()]).sum()
    total.backward()
    assert total.isfinite()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())
