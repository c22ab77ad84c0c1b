"""DAB-DETR: its published size, its anchors and patterns, how boxes move, and what heads add."""

from __future__ import annotations

import pytest
import torch
from every_base import tiny_model, tiny_spec
from small import NUM_CLASSES, batch

from codetr.models.build import build
from codetr.models.parts.prediction_heads import PredictionHeads
from codetr.ops.reference import inverse_sigmoid
from codetr.spec import load_spec

# One group's logits against the same group decoded in other company: float32 sums in another order, on values near 1.
SAME = 1e-5


# Counted on the official classes with ResNet-50 and 91 class ids: all parameters, and without stem and first stage.
@pytest.mark.parametrize(
    ("overrides", "total", "trained"),
    [([], 43_671_517, 43_449_117), (["base.num_patterns=3"], 43_672_285, 43_449_885)],
    ids=["plain", "patterns"],
)
def test_published_parameter_counts(overrides, total, trained):
    with torch.device("meta"):
        model = build(load_spec("dab_detr_r50", overrides), 91, pretrained=False)
    assert sum(p.numel() for p in model.parameters()) == total
    assert sum(p.numel() for p in model.parameters() if p.requires_grad) == trained


def test_the_recipe_is_that_of_the_authors():
    spec = load_spec("dab_detr_r50", [])
    assert (spec.criterion.class_weight, spec.criterion.cost.class_weight) == (1.0, 2.0)
    assert (spec.train.batch_size, spec.train.lr, spec.train.epochs) == (16, 1e-4, 50)
    assert spec.eval.max_detections == 300


def test_boxes_start_at_the_anchors_and_stay_there_until_something_is_learned():
    torch.manual_seed(0)
    base = build(tiny_spec("dab_detr", heads=False), NUM_CLASSES, pretrained=False).base
    images, _ = batch()
    with torch.no_grad():
        base.anchor_embed.weight[0] = torch.tensor([9.0, -9.0, -9.0, 9.0])
        memory = base.encode(images)
        (group,) = base.propose(memory, None).groups
        output = base.decode(memory, [group])
    assert group.pos is None and group.reference.shape == (2, 9, 4) and not group.content.any()
    assert torch.equal(group.reference[1], base.anchor_embed.weight.sigmoid())
    # Nearer to the edge than 1e-3 no anchor can be.
    assert group.reference[0, 0, 1] < 2e-4
    expected = group.reference.clamp(1e-3, 1 - 1e-3)
    torch.testing.assert_close(output.boxes, expected.expand_as(output.boxes), atol=1e-5, rtol=0)
    assert output.logits.sigmoid().mean() < 0.05


def test_eps_is_a_setting():
    model = tiny_model("dab_detr", NUM_CLASSES, heads=False, eps=1e-5)
    with torch.no_grad():
        model.base.anchor_embed.weight[0] = 9.0
        memory = model.base.encode(batch()[0])
        base = model.base
        for parameter in base.heads.boxes.parameters():
            parameter.zero_()
        output = base.decode(memory, base.propose(memory, None).groups)
    torch.testing.assert_close(output.boxes[0, 0, 0], torch.full((4,), 9.0).sigmoid(), atol=1e-6, rtol=0)


def test_patterns_share_the_anchors_one_pattern_after_the_other():
    base = tiny_model("dab_detr", NUM_CLASSES, heads=False, num_patterns=2, num_queries=3).base
    memory = base.encode(batch()[0])
    (group,) = base.propose(memory, None).groups
    first, second = base.pattern_embed.weight
    assert torch.equal(group.content[1], torch.stack([first, first, first, second, second, second]))
    anchors = base.anchor_embed.weight.sigmoid()
    assert torch.equal(group.reference[1], torch.cat([anchors, anchors]))


@torch.no_grad()
def test_the_next_box_comes_from_the_output_before_the_norm():
    """The box predicted by layer 0 and the reference of layer 1 differ, though one head makes them both."""
    base = tiny_model("dab_detr", NUM_CLASSES, heads=False).base.eval()
    memory = base.encode(batch()[0])
    groups = base.propose(memory, None).groups
    seen = []
    base.decoder.layers[0].register_forward_hook(lambda module, inputs, output: seen.append(output))
    spatial = base.decoder.spatial_query
    spatial.register_forward_hook(lambda module, inputs, output: seen.append(inputs[2]))
    boxes = base.decode(memory, groups).boxes
    start, content, second = seen
    assert torch.equal(start, groups[0].reference)
    logits = inverse_sigmoid(start, 1e-3)
    moved = (base.heads.deltas(content, 0) + logits).sigmoid()
    predicted = (base.heads.deltas(base.decoder.norm(content), 0) + logits).sigmoid()
    torch.testing.assert_close(second, moved, atol=1e-6, rtol=0)
    torch.testing.assert_close(boxes[0], predicted, atol=1e-6, rtol=0)
    assert (moved - predicted).abs().max() > 1e-3


def test_a_prediction_sends_gradients_to_the_box_before_but_positions_do_not():
    base = tiny_model("dab_detr", NUM_CLASSES, heads=False).base
    # Heads of their own show which layer a gradient reaches.
    base.heads = PredictionHeads(base.dim, NUM_CLASSES, num_layers=2, shared=False)
    for parameter in base.heads.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    memory = base.encode(batch()[0])
    groups = base.propose(memory, None).groups
    output = base.decode(memory, groups)
    first = list(base.heads.boxes[0].parameters())
    assert all(g.abs().sum() > 0 for g in torch.autograd.grad(output.boxes[1].sum(), first, retain_graph=True))
    assert all(g is None for g in torch.autograd.grad(output.logits[1].sum(), first, allow_unused=True))


def test_positives_are_taken_as_contents_around_their_boxes():
    base = tiny_model("dab_detr", NUM_CLASSES, heads=True).base
    embedding, boxes = torch.randn(2, 5, 32), torch.rand(2, 5, 4)
    content, pos, reference = base.adopt(embedding, boxes)
    assert base.query_width == 1 and pos is None
    assert torch.equal(content, embedding) and torch.equal(reference, boxes)


def test_one_decoder_call_equals_separate_calls_and_positives_leave_the_matched_ones_alone():
    model = tiny_model("dab_detr", NUM_CLASSES, heads=True).eval()
    images, targets = batch()
    with torch.no_grad():
        memory = model.base.encode(images)
        groups = list(model.base.propose(memory, targets).groups)
        pyramid = model.adapter(memory)
        for name, head in model.heads.items():
            groups.append(model._positive_group(name, head(pyramid, targets).positives, images.sizes))
        for group, part in zip(groups, model.base.decode(memory, groups).split(groups), strict=True):
            alone = model.base.decode(memory, [group])
            valid = torch.ones(group.content.shape[:2], dtype=torch.bool) if group.valid is None else group.valid
            torch.testing.assert_close(part.logits[:, valid], alone.logits[:, valid], atol=SAME, rtol=0)
            torch.testing.assert_close(part.boxes[:, valid], alone.boxes[:, valid], atol=SAME, rtol=0)
    assert [group.name for group in groups] == ["match", "pos.faster_rcnn", "pos.atss"]


def test_evaluation_with_heads_equals_the_bare_base_bit_for_bit():
    wrapped = tiny_model("dab_detr", NUM_CLASSES, heads=True).eval()
    bare = tiny_model("dab_detr", NUM_CLASSES, heads=False).eval()
    bare.base.load_state_dict(wrapped.base.state_dict())
    images, _ = batch()
    with torch.no_grad():
        for ours, theirs in zip(wrapped.predict(images), bare.predict(images), strict=True):
            assert torch.equal(ours.boxes, theirs.boxes) and torch.equal(ours.scores, theirs.scores)
            assert torch.equal(ours.labels, theirs.labels)


@pytest.mark.parametrize("counts", [(3, 1), (2, 0), (0, 0)], ids=["objects", "one empty image", "no objects"])
@pytest.mark.parametrize("settings", [{}, {"num_patterns": 2}], ids=["plain", "patterns"])
def test_every_parameter_gets_a_finite_gradient(settings, counts):
    model = tiny_model("dab_detr", NUM_CLASSES, heads=not settings, **settings).train()
    losses = model(*batch(counts))
    assert all(value.ndim == 0 and value.isfinite() for value in losses.values())
    sum(losses.values()).backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None and parameter.grad.isfinite().all(), name
        # The backbone is left out: of eight channels at random some are dead.
        assert not any(counts) or parameter.grad.any() or not name.startswith(("base.encoder", "base.decoder")), name
