"""Deformable DETR: its published size, its initial predictions, its settings."""

from __future__ import annotations

import pytest
import torch
from pydantic import ValidationError
from small import HEADS, ONE_STAGE, PLUS_PLUS, REFINE, TWO_STAGE, batch, small_model, small_spec

from codetr.models.bases.deformable_detr import DeformableDETR
from codetr.models.build import build
from codetr.models.parts.two_stage import token_boxes
from codetr.spec import load_spec

# Counted on the official classes with ResNet-50 and 91 class ids: all parameters, and without stem and first stage.
PUBLISHED_SIZES = {
    "one-stage": ("deformable_r50", [], 40_069_665, 39_847_265),
    "refine": ("deformable_r50", ["base.box_refine=true"], 40_849_660, 40_627_260),
    "two-stage": ("deformable_r50", ["base.box_refine=true", "base.two_stage=true"], 41_181_529, 40_959_129),
    "single-scale": ("deformable_r50", ["neck.num_levels=1", "backbone.stages=[4]"], 34_066_593, 33_844_193),
    "two-stage recipe": ("deformable_two_stage_r50", [], 41_181_529, 40_959_129),
    "learned anchors": ("dab_deformable_r50", [], 47_405_994, 47_183_594),
    "plus-plus": ("deformable_pp_r50", ["neck.bias=true"], 47_562_073, 47_339_673),
}


@pytest.mark.parametrize(("name", "overrides", "total", "trained"), PUBLISHED_SIZES.values(), ids=PUBLISHED_SIZES)
def test_published_parameter_counts(name, overrides, total, trained):
    with torch.device("meta"):
        model = build(load_spec(name, overrides), 91, pretrained=False)
    assert sum(p.numel() for p in model.parameters()) == total
    assert sum(p.numel() for p in model.parameters() if p.requires_grad) == trained


def first_predictions(base):
    torch.manual_seed(0)
    model = build(small_spec(base, {}), 4).eval()
    images, _ = batch()
    with torch.no_grad():
        memory = model.base.encode(images)
        proposal = model.base.propose(memory, None)
        return memory, proposal, model.base.decode(memory, proposal.groups)


@pytest.mark.parametrize("base", [ONE_STAGE, REFINE])
def test_one_stage_boxes_start_at_their_points_with_an_eighth_of_the_image(base):
    _, proposal, output = first_predictions(base)
    reference = proposal.groups[0].reference
    assert reference.shape[-1] == 2
    torch.testing.assert_close(output.boxes[0, ..., :2], reference, atol=1e-5, rtol=0)
    torch.testing.assert_close(output.boxes[0, ..., 2:], torch.full_like(reference, 0.1192), atol=1e-4, rtol=0)


def test_two_stage_boxes_start_at_the_proposals():
    memory, proposal, output = first_predictions(PLUS_PLUS)
    reference = proposal.groups[0].reference
    anchors, _ = token_boxes(memory)
    distance = torch.cdist(reference, anchors).amin(-1)
    assert ((distance < 1e-3) | (reference == 1).all(-1)).all()
    torch.testing.assert_close(output.boxes[-1], reference.clamp(1e-5, 1 - 1e-5), atol=1e-5, rtol=0)


def test_class_probabilities_start_at_one_percent():
    model = build(small_spec(PLUS_PLUS, {}), 4)
    for linear in [*model.base.heads.classes, model.base.proposals.heads.classes[0]]:
        torch.testing.assert_close(linear.bias.sigmoid(), torch.full((4,), 0.01))


def test_a_tiny_image_offers_fewer_queries():
    model = build(small_spec({**TWO_STAGE, "num_queries": 500}, {}), 4).eval()
    images, _ = batch()
    with torch.no_grad():
        detections = model.predict(images, max_detections=10)
    tokens = 12 * 16 + 6 * 8 + 3 * 4
    assert model.base.propose(model.base.encode(images), None).groups[0].content.shape[1] == tokens
    assert all(len(d.scores) == 10 for d in detections)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"two_stage": True}, "two_stage: true needs box_refine: true"),
        ({"look_forward_twice": True}, "look_forward_twice: true needs box_refine: true"),
        ({"learned_anchors": True}, "learned_anchors: true needs box_refine: true"),
        ({"box_refine": True, "two_stage": True, "learned_anchors": True}, "both say where queries start; take one"),
        ({"box_refine": True, "mixed_selection": True}, "mixed_selection: true needs two_stage: true"),
    ],
)
def test_a_setting_without_effect_is_an_error(settings, message):
    with pytest.raises(ValidationError, match=message):
        DeformableDETR.Config(**settings)


def test_look_forward_twice_sends_gradients_to_the_layer_before():
    def gradient(look_forward_twice):
        torch.manual_seed(0)
        model = build(small_spec({**PLUS_PLUS, "look_forward_twice": look_forward_twice}, {}), 4)
        with torch.no_grad():
            for box_head in model.base.heads.boxes:
                box_head.layers[-1].weight.normal_(std=0.1)
        images, targets = batch()
        memory = model.base.encode(images)
        output = model.base.decode(memory, model.base.propose(memory, targets).groups)
        output.boxes[1].sum().backward()
        grad = model.base.heads.boxes[0].layers[-1].weight.grad
        return 0.0 if grad is None else grad.abs().sum().item()

    assert gradient(True) > 0
    assert gradient(False) == 0


LEARNED_ANCHORS = {**REFINE, "learned_anchors": True}


def test_learned_anchors_start_an_eighth_of_the_image_and_are_where_queries_start():
    """The deformable form of DAB-DETR: the first head's deltas of width and height start at -2."""
    _, proposal, output = first_predictions(LEARNED_ANCHORS)
    (match,) = proposal.groups
    assert match.pos is None and match.content.shape == (2, 9, 32) and match.reference.shape == (2, 9, 4)
    torch.testing.assert_close(output.boxes[0, ..., :2], match.reference[..., :2].clamp(1e-3, 1 - 1e-3))
    moved = (match.reference[..., 2:].logit() - 2).sigmoid()
    torch.testing.assert_close(output.boxes[0, ..., 2:], moved, atol=1e-4, rtol=0)
    torch.testing.assert_close(output.boxes[1, ..., 2:], moved, atol=1e-3, rtol=0)


@torch.no_grad()
def test_learned_anchors_keep_a_thousandth_off_the_edges():
    model = build(small_spec(LEARNED_ANCHORS, {}), 4).eval()
    model.base.anchor_embed.weight.fill_(-20.0)
    memory = model.base.encode(batch()[0])
    output = model.base.decode(memory, model.base.propose(memory, None).groups)
    torch.testing.assert_close(output.boxes[0, ..., :2], torch.full((2, 9, 2), 1e-3))


def test_learned_anchors_learn_from_the_first_layer_alone():
    """By its boxes, its positions and where it samples; later references are detached."""
    model = small_model(LEARNED_ANCHORS, {})
    images, targets = batch()
    memory = model.base.encode(images)
    output = model.base.decode(memory, model.base.propose(memory, targets).groups)
    biases = [mlp.last.bias for mlp in model.base.heads.boxes]
    (reached,) = torch.autograd.grad(output.boxes[1].sum(), biases[0], retain_graph=True)
    assert (reached == 0).all()
    output.boxes[0].sum().backward()
    assert (model.base.anchor_embed.weight.grad.abs() > 0).all()


@pytest.mark.parametrize("counts", [(3, 1), (0, 0)], ids=str)
def test_heads_around_learned_anchors(counts):
    model = small_model(LEARNED_ANCHORS, HEADS["both"]).train()
    images, targets = batch(counts)
    losses = model(images, targets)
    assert all(value.isfinite() for value in losses.values())
    sum(losses.values()).backward()
    assert [n for n, p in model.named_parameters() if p.requires_grad and p.grad is None] == []
    assert model.base.query_width == 1
    content, pos, reference = model.base.adopt(torch.zeros(2, 5, 32), torch.rand(2, 5, 4))
    assert content.shape == (2, 5, 32) and pos is None and reference.shape == (2, 5, 4)
