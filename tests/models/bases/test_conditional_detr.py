"""Conditional DETR: its published size, its initial predictions, its queries."""

from __future__ import annotations

import pytest
import torch
from small import CONDITIONAL_DETR, HEADS, NUM_CLASSES, batch, small_model, small_spec

from codetr.errors import UserError
from codetr.models.build import build
from codetr.spec import load_spec
from codetr.structures import Match, QueryGroup


# Counted on the official classes with ResNet-50 and 91 class ids: all parameters, and without stem and first stage.
@pytest.mark.parametrize("overrides", [[], ["backbone.options={output_stride: 16}"]], ids=["stride 32", "stride 16"])
def test_published_parameter_counts(overrides):
    with torch.device("meta"):
        model = build(load_spec("conditional_detr_r50", overrides), 91, pretrained=False)
    assert sum(p.numel() for p in model.parameters()) == 43_418_401
    assert sum(p.numel() for p in model.parameters() if p.requires_grad) == 43_196_001


def test_boxes_start_at_their_points_with_half_the_image():
    torch.manual_seed(0)
    base = build(small_spec(CONDITIONAL_DETR, {}), NUM_CLASSES).base.eval()
    with torch.no_grad():
        memory = base.encode(batch()[0])
        (group,) = base.propose(memory, None).groups
        output = base.decode(memory, [group])
    assert group.reference.shape == (2, 9, 2)
    torch.testing.assert_close(output.boxes[..., :2], group.reference.expand(2, 2, 9, 2), atol=1e-5, rtol=0)
    assert (output.boxes[..., 2:] == 0.5).all()
    torch.testing.assert_close(base.heads.classes[0].bias.sigmoid(), torch.full((NUM_CLASSES,), 0.01))


def test_queries_are_positions_whose_points_are_read_off_them():
    base = small_model(CONDITIONAL_DETR, {}).base
    images, targets = batch()
    memory = base.encode(images)
    for given in (None, targets):
        (group,) = base.propose(memory, given).groups
        assert group.name == "match" and not group.content.any()
        assert torch.equal(group.pos[1], base.query_embed.weight)
        expected = base.ref_point_head(base.query_embed.weight).sigmoid().expand(2, -1, -1)
        torch.testing.assert_close(group.reference, expected)
        assert group.reference.requires_grad


def test_a_positive_looks_around_the_centre_of_its_box():
    base = small_model(CONDITIONAL_DETR, {}).base
    embedding, boxes = torch.randn(2, 5, 64), torch.rand(2, 5, 4)
    content, pos, reference = base.adopt(embedding, boxes)
    assert torch.equal(torch.cat([content, pos], -1), embedding) and torch.equal(reference, boxes[..., :2])


def test_a_positive_of_its_own_centre_starts_there():
    """An adopted query's first box lies around the centre of the head's box: the deltas start at 0."""
    torch.manual_seed(0)
    base = build(small_spec(CONDITIONAL_DETR, HEADS["atss"]), NUM_CLASSES).base.eval()
    boxes = 0.1 + 0.8 * torch.rand(2, 5, 4)
    with torch.no_grad():
        memory = base.encode(batch()[0])
        group = QueryGroup("pos.atss", *base.adopt(torch.randn(2, 5, 64), boxes), Match())
        output = base.decode(memory, [group])
    torch.testing.assert_close(output.boxes[0, ..., :2], boxes[..., :2], atol=1e-5, rtol=0)


def test_the_first_layer_alone_reads_positions_in_its_cross_attention():
    base = small_model({**CONDITIONAL_DETR, "decoder_layers": 3}, {}).base
    assert [layer.cross_attention.query_pos is not None for layer in base.decoder.layers] == [True, False, False]


def test_widths_that_do_not_divide_are_an_error():
    with pytest.raises(UserError, match=r"neck\.dim is 32; .*base\.num_heads \(5\)"):
        build(small_spec({**CONDITIONAL_DETR, "num_heads": 5}, {}), NUM_CLASSES)


@pytest.mark.parametrize("counts", [(3, 1), (0, 0)], ids=["objects", "no objects"])
def test_with_heads_every_loss_is_finite(counts):
    losses = small_model(CONDITIONAL_DETR, HEADS["both"]).train()(*batch(counts))
    assert all(value.isfinite() for value in losses.values())
    assert {"match.1.cls", "pos.atss.1.giou", "pos.faster_rcnn.0.l1", "atss.cls"} <= losses.keys()
