"""The promises of collaborative training: what it adds in training, and that it leaves inference alone."""

from __future__ import annotations

import pytest
import torch
from small import CONDITIONAL_DETR, DETR, HEADS, ONE_STAGE, PLUS_PLUS, REFINE, TWO_STAGE, batch, small_model

from codetr.errors import UserError
from codetr.models.parts.postprocess import top_detections

BASES = {
    "one-stage": ONE_STAGE,
    "refine": REFINE,
    "two-stage": TWO_STAGE,
    "plus-plus": PLUS_PLUS,
    "detr": DETR,
    "conditional": CONDITIONAL_DETR,
}

# One group's logits against the same group decoded in other company: float32 sums in another order, on values near 1.
SAME = 1e-5


def groups_of(model, images, targets):
    """Memory and every group that a training step puts into the decoder."""
    memory = model.base.encode(images)
    groups = list(model.base.propose(memory, targets).groups)
    pyramid = model.adapter(memory)
    for name, head in model.heads.items():
        groups.append(model._positive_group(name, head(pyramid, targets).positives, images.sizes))
    return memory, groups


@pytest.mark.parametrize(("base", "heads"), [("plus-plus", "atss"), *((base, "both") for base in BASES)])
def test_evaluation_equals_the_bare_base_bit_for_bit(base, heads):
    wrapped = small_model(BASES[base], HEADS[heads]).eval()
    bare = small_model(BASES[base], HEADS["none"]).eval()
    bare.base.load_state_dict(wrapped.base.state_dict())
    images, _ = batch()
    with torch.no_grad():
        for ours, theirs in zip(wrapped.predict(images), bare.predict(images), strict=True):
            assert torch.equal(ours.boxes, theirs.boxes)
            assert torch.equal(ours.scores, theirs.scores)
            assert torch.equal(ours.labels, theirs.labels)
        memory = bare.base.encode(images)
        output = bare.base.decode(memory, bare.base.propose(memory, None).groups)
        kind = bare.base.classification
        (first, _) = top_detections(output, images.sizes, max_detections=100, classification=kind)
        assert torch.equal(first.scores, wrapped.predict(images)[0].scores)


@pytest.mark.parametrize("fill", ["mask", "negatives"])
@pytest.mark.parametrize("base", BASES)
@torch.no_grad()
def test_positives_leave_the_matched_branch_unchanged(base, fill):
    model = small_model(BASES[base], HEADS["both"], fill=fill)
    images, targets = batch()
    memory, groups = groups_of(model, images, targets)
    assert [group.name for group in groups] == ["match", "pos.faster_rcnn", "pos.atss"]
    joint = model.base.decode(memory, groups).split(groups)[0]
    alone = model.base.decode(memory, groups[:1])
    torch.testing.assert_close(joint.logits, alone.logits, atol=SAME, rtol=0)
    torch.testing.assert_close(joint.boxes, alone.boxes, atol=SAME, rtol=0)


@pytest.mark.parametrize("fill", ["mask", "negatives"])
@pytest.mark.parametrize("base", BASES)
@torch.no_grad()
def test_one_decoder_call_equals_separate_calls(base, fill):
    model = small_model(BASES[base], HEADS["both"], fill=fill)
    images, targets = batch()
    memory, groups = groups_of(model, images, targets)
    for group, part in zip(groups, model.base.decode(memory, groups).split(groups), strict=True):
        alone = model.base.decode(memory, [group])
        valid = torch.ones(group.content.shape[:2], dtype=torch.bool) if group.valid is None else group.valid
        torch.testing.assert_close(part.logits[:, valid], alone.logits[:, valid], atol=SAME, rtol=0)
        torch.testing.assert_close(part.boxes[:, valid], alone.boxes[:, valid], atol=SAME, rtol=0)


@torch.no_grad()
def test_masked_slots_change_nothing():
    model = small_model(PLUS_PLUS, HEADS["atss"])
    images, targets = batch()
    memory, groups = groups_of(model, images, targets)
    group = groups[1]
    assert group.valid is not None and not group.valid.all() and group.valid.any()
    noise = torch.randn_like(group.content).masked_fill(group.valid[..., None], 0.0)
    before = model.base.decode(memory, [group]).logits
    object.__setattr__(group, "content", group.content + 10 * noise)
    after = model.base.decode(memory, [group]).logits
    torch.testing.assert_close(before[:, group.valid], after[:, group.valid], atol=SAME, rtol=0)
    assert not torch.allclose(before[:, ~group.valid], after[:, ~group.valid], atol=1e-2)


@pytest.mark.parametrize("counts", [(3, 1), (2, 0), (0, 0)], ids=["objects", "one empty image", "no objects"])
@pytest.mark.parametrize("heads", HEADS)
@pytest.mark.parametrize("base", BASES)
def test_every_parameter_gets_a_finite_gradient(base, heads, counts):
    model = small_model(BASES[base], HEADS[heads]).train()
    losses = model(*batch(counts, masks=heads == "mask_rcnn"))
    assert all(value.ndim == 0 and value.isfinite() for value in losses.values())
    sum(losses.values()).backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name


def test_weights_of_equation_6():
    images, targets = batch()

    def losses(**weights):
        torch.manual_seed(3)
        return small_model(PLUS_PLUS, HEADS["atss"], **weights)(images, targets)

    plain = losses(lambda_1=1.0, lambda_2=1.0)
    scaled = losses(lambda_1=3.0, lambda_2=2.0)
    for name, value in plain.items():
        factor = 2.0 if name.startswith("atss.") else 3.0 if name.startswith("pos.") else 1.0
        assert scaled[name].item() == pytest.approx(factor * value.item(), rel=1e-6), name
    # lambda_2 counts once per decoder layer: the head's own losses, times the two layers.
    model = small_model(PLUS_PLUS, HEADS["atss"], lambda_1=1.0, lambda_2=1.0)
    own = model.heads["atss"](model.adapter(model.base.encode(images)), targets).losses
    for term, value in own.items():
        assert plain[f"atss.{term}"].item() == pytest.approx(2 * value.item(), rel=1e-6)


def test_weights_of_single_heads():
    images, targets = batch()

    def losses(**weights):
        torch.manual_seed(3)
        return small_model(PLUS_PLUS, HEADS["both"], **weights)(images, targets)

    plain = losses()
    scaled = losses(loss_weights={"atss": 0.5}, query_weights={"faster_rcnn": 3.0, "atss": 0.0})
    factors = {"atss": 0.5, "pos.atss": 0.0, "pos.faster_rcnn": 3.0}
    for name, value in plain.items():
        factor = next((factor for head, factor in factors.items() if name.startswith(f"{head}.")), 1.0)
        assert scaled[name].item() == pytest.approx(factor * value.item(), rel=1e-6), name


def test_weights_of_a_head_that_is_not_there():
    with pytest.raises(ValueError, match=r"collaborative.loss_weights: no head is called 'ats'; did you mean 'atss'\?"):
        small_model(PLUS_PLUS, HEADS["atss"], loss_weights={"ats": 0.5})
    assert len(small_model(PLUS_PLUS, HEADS["none"], loss_weights={"ats": 0.5}).heads) == 0


def test_positive_queries_can_be_left_out():
    model = small_model(PLUS_PLUS, HEADS["both"], positive_queries=False)
    losses = model(*batch())
    assert len(model.positive_queries) == 0
    assert not any(name.startswith("pos.") for name in losses)
    assert any(name.startswith("atss.") for name in losses)


def test_heads_reach_the_backbone_and_boxes_are_detached():
    model = small_model(PLUS_PLUS, HEADS["atss"])
    images, targets = batch()
    pyramid = model.adapter(model.base.encode(images))
    output = model.heads["atss"](pyramid, targets)
    assert output.positives.features.requires_grad and not output.positives.boxes.requires_grad
    sum(output.losses.values()).backward()
    assert model.base.backbone.net.conv1[0].weight.grad.abs().sum() > 0


@pytest.mark.parametrize("branch", ["atss", "faster_rcnn"])
@torch.no_grad()
def test_a_head_is_a_detector_of_its_own(branch):
    model = small_model(PLUS_PLUS, HEADS["both"]).eval()
    images, _ = batch()
    found = model.predict(images, branch=branch, max_detections=7)
    for detections, (height, width) in zip(found, images.sizes, strict=True):
        assert 0 < len(detections.scores) <= 7
        assert (detections.scores.diff() <= 0).all()
        assert (detections.boxes >= 0).all()
        assert (detections.boxes[:, 2] <= width).all() and (detections.boxes[:, 3] <= height).all()


def test_an_unknown_branch_lists_the_known_ones():
    model = small_model(PLUS_PLUS, HEADS["atss"])
    with pytest.raises(UserError, match=r"no branch 'faster_rcnn'.*detr, atss"):
        model.predict(batch()[0], branch="faster_rcnn")
