"""DETR: its published size, its initial values, its queries, its detections."""

from __future__ import annotations

import pytest
import torch
from small import DETR, HEADS, NUM_CLASSES, batch, small_model, small_spec

from codetr.errors import UserError
from codetr.models.build import ModelSpec, build
from codetr.spec import load_spec


# Counted on the official classes with ResNet-50 and 91 class ids: all parameters, and without stem and first stage.
@pytest.mark.parametrize("overrides", [[], ["backbone.options={output_stride: 16}"]], ids=["stride 32", "stride 16"])
def test_published_parameter_counts(overrides):
    with torch.device("meta"):
        model = build(load_spec("detr_r50", overrides), 91, pretrained=False)
    assert sum(p.numel() for p in model.parameters()) == 41_524_768
    assert sum(p.numel() for p in model.parameters() if p.requires_grad) == 41_302_368


def test_queries_are_positions_with_empty_contents_and_no_reference():
    base = small_model(DETR, {}).base
    images, targets = batch()
    memory = base.encode(images)
    for given in (None, targets):
        (group,) = base.propose(memory, given).groups
        assert group.name == "match" and group.reference.shape == (2, 9, 0)
        assert not group.content.any()
        assert torch.equal(group.pos[1], base.query_embed.weight)


def test_positives_enter_through_their_embedding_alone():
    base = small_model(DETR, {}).base
    embedding, boxes = torch.randn(2, 5, 64), torch.rand(2, 5, 4)
    content, pos, reference = base.adopt(embedding, boxes)
    assert torch.equal(torch.cat([content, pos], -1), embedding) and reference.shape == (2, 5, 0)


def test_initial_values_are_those_of_the_published_code():
    """No prior in the class bias, no zeros in the last box layer; the transformer's matrices are Xavier's."""
    torch.manual_seed(0)
    base = build(small_spec(DETR, {}), NUM_CLASSES).base
    (classes,), (boxes,) = base.heads.classes, base.heads.boxes
    assert classes.bias.abs().max() < 32**-0.5 and boxes.last.weight.abs().min() > 0
    for layer in [*base.encoder.layers, *base.decoder.layers]:
        weight = layer.self_attention.in_proj.weight
        bound = (6 / sum(weight.shape)) ** 0.5
        assert 0.9 * bound < weight.abs().max() <= bound


def test_there_is_one_logit_more_than_classes_and_it_is_never_detected():
    model = small_model(DETR, {}).eval()
    images, _ = batch()
    with torch.no_grad():
        model.base.heads.classes[0].bias[-1] = 3.0
        memory = model.base.encode(images)
        output = model.base.decode(memory, model.base.propose(memory, None).groups)
        found = model.predict(images)
    assert output.logits.shape == (2, 2, 9, NUM_CLASSES + 1)
    scores, labels = output.logits[-1].softmax(-1)[..., :-1].max(-1)
    for detections, own, kinds in zip(found, scores, labels, strict=True):
        assert torch.equal(detections.scores, own.sort(descending=True).values)
        assert torch.equal(detections.labels, kinds[own.argsort(descending=True)])


def test_dropout_is_for_training():
    model = small_model({**DETR, "dropout": 0.5}, {})
    images, _ = batch()
    memories = [model.base.encode(images).tokens for _ in range(2)]
    assert not torch.equal(*memories)
    model.eval()
    memories = [model.base.encode(images).tokens for _ in range(2)]
    assert torch.equal(*memories)


def test_several_maps_are_an_error():
    settings = small_spec(DETR, {}).model_dump()
    spec = ModelSpec.model_validate({**settings, "backbone": {**settings["backbone"], "stages": (3, 4)}})
    with pytest.raises(UserError, match=r"neck projection takes one map, the backbone gives 2: backbone\.stages=\[4\]"):
        build(spec, NUM_CLASSES)


def test_widths_that_do_not_divide_are_an_error():
    with pytest.raises(UserError, match=r"neck\.dim is 32; .*base\.num_heads \(5\)"):
        build(small_spec({**DETR, "num_heads": 5}, {}), NUM_CLASSES)


@pytest.mark.parametrize("counts", [(3, 1), (12, 0), (0, 0)], ids=["objects", "more than queries", "no objects"])
def test_with_heads_every_loss_is_finite(counts):
    model = small_model(DETR, HEADS["both"]).train()
    losses = model(*batch(counts)) if max(counts) < 9 else warned(model, counts)
    assert all(value.isfinite() for value in losses.values())
    assert {"match.1.cls", "pos.atss.1.giou", "pos.faster_rcnn.0.l1", "atss.cls"} <= losses.keys()


def warned(model, counts):
    with pytest.warns(RuntimeWarning, match="has 12 objects but the group 'match' has 9 queries"):
        return model(*batch(counts))
