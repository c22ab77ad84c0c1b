"""Our detectors against the independent implementations in transformers: every layer's logits and boxes."""

from __future__ import annotations

import pytest
import torch

from codetr.errors import UserError
from codetr.structures import ImageBatch
from codetr.weights import from_transformers

transformers = pytest.importorskip("transformers")

# Float32 sums over 4 x 64 channels in another order: observed differences are below 1e-5; 1e-4 is the promise.
TOLERANCE = 1e-4


def hf_backbone(stages, **options):
    return transformers.TimmBackboneConfig(
        backbone="resnet18", out_indices=stages, features_only=True, use_pretrained_backbone=False, **options
    )


def hf_model(kind="DeformableDetr", stages=(2, 3, 4), output_stride=None, **settings):
    """A small model, away from its initial values: those are too regular to tell a wrong order from a right one."""
    config = getattr(transformers, f"{kind}Config")(
        num_labels=5,
        d_model=64,
        encoder_layers=2,
        decoder_layers=3,
        encoder_attention_heads=4,
        decoder_attention_heads=4,
        encoder_ffn_dim=48,
        decoder_ffn_dim=48,
        num_queries=11,
        backbone_config=hf_backbone(stages, output_stride=output_stride),
        **settings,
    )
    torch.manual_seed(0)
    model = getattr(transformers, f"{kind}ForObjectDetection")(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    return model


def padded_batch():
    """Two images of different size, none of them a multiple of the strides."""
    height, width = 130, 163
    pixels = torch.randn(2, 3, height, width)
    padding = torch.zeros(2, height, width, dtype=torch.bool)
    padding[1, 97:] = True
    padding[1, :, 110:] = True
    pixels = pixels.masked_fill(padding[:, None], 0.0)
    return ImageBatch(pixels, padding, torch.tensor([[130.0, 163.0], [97.0, 110.0]]))


@pytest.mark.parametrize(
    "settings",
    [
        {"with_box_refine": False},
        {"with_box_refine": True},
        {"with_box_refine": True, "two_stage": True},
        {"with_box_refine": False, "num_feature_levels": 1, "stages": (4,)},
        {"with_box_refine": True, "num_feature_levels": 2, "stages": (3, 4)},
        {"with_box_refine": True, "two_stage": True, "num_feature_levels": 3, "stages": (3, 4)},
    ],
    ids=["one-stage", "refine", "two-stage", "single-scale", "two levels", "three levels"],
)
@torch.no_grad()
def test_every_layer_of_deformable_detr(settings):
    theirs = hf_model(two_stage_num_proposals=11, **settings)
    ours = from_transformers(theirs).base
    images = padded_batch()
    expected = theirs.model(pixel_values=images.pixels, pixel_mask=(~images.padding).long())
    memory = ours.encode(images)
    proposal = ours.propose(memory, None)
    output = ours.decode(memory, proposal.groups)
    torch.testing.assert_close(memory.tokens, expected.encoder_last_hidden_state, atol=TOLERANCE, rtol=0)
    logits, boxes = their_predictions(theirs, expected)
    torch.testing.assert_close(output.logits, logits, atol=TOLERANCE, rtol=0)
    torch.testing.assert_close(output.boxes, boxes, atol=TOLERANCE, rtol=0)


def their_predictions(model, output):
    """Class logits and boxes of each layer, as the official heads form them."""
    logits, boxes = [], []
    for layer in range(output.intermediate_hidden_states.shape[1]):
        hidden = output.intermediate_hidden_states[:, layer]
        reference = output.init_reference_points if layer == 0 else output.intermediate_reference_points[:, layer - 1]
        anchor = torch.logit(reference, eps=1e-5)
        delta = model.bbox_embed[layer](hidden)
        delta = torch.cat([delta[..., : anchor.shape[-1]] + anchor, delta[..., anchor.shape[-1] :]], -1)
        logits.append(model.class_embed[layer](hidden))
        boxes.append(delta.sigmoid())
    return torch.stack(logits), torch.stack(boxes)


@pytest.mark.parametrize(
    ("kind", "output_stride"), [("Detr", None), ("Detr", 16), ("ConditionalDetr", None), ("ConditionalDetr", 16)]
)
@torch.no_grad()
def test_every_layer_of_the_single_scale_kinds(kind, output_stride):
    theirs = hf_model(kind, stages=(4,), output_stride=output_stride)
    ours = from_transformers(theirs).base
    images = padded_batch()
    # With auxiliary_loss they return the layers' outputs, but feed each layer the normed output of the one before,
    # which the published models do not.
    outputs = []
    for layer in theirs.model.decoder.layers:
        layer.register_forward_hook(lambda module, args, result: outputs.append(result))
    expected = theirs.model(pixel_values=images.pixels, pixel_mask=(~images.padding).long())
    memory = ours.encode(images)
    output = ours.decode(memory, ours.propose(memory, None).groups)
    torch.testing.assert_close(memory.tokens, expected.encoder_last_hidden_state, atol=TOLERANCE, rtol=0)
    assert ours.strides == (output_stride or 32,)
    hidden = theirs.model.decoder.layernorm(torch.stack(outputs))
    assert len(hidden) == 3 and torch.equal(hidden[-1], expected.last_hidden_state)
    delta = theirs.bbox_predictor(hidden)
    if kind == "ConditionalDetr":
        delta[..., :2] += torch.logit(expected.reference_points.transpose(0, 1), eps=1e-5)
    torch.testing.assert_close(output.logits, theirs.class_labels_classifier(hidden), atol=TOLERANCE, rtol=0)
    torch.testing.assert_close(output.boxes, delta.sigmoid(), atol=TOLERANCE, rtol=0)


def test_another_kind_of_model_is_refused():
    model = torch.nn.Module()
    model.config = transformers.RTDetrConfig()
    with pytest.raises(UserError, match=r"reads conditional_detr, .*, detr models, got 'rt_detr'"):
        from_transformers(model)


@pytest.mark.parametrize(
    ("kind", "settings", "message"),
    [
        ("Detr", {"position_embedding_type": "learned"}, "reads sine position embeddings, got 'learned'"),
        ("ConditionalDetr", {"decoder_ffn_dim": 32}, "equal heads and widths in encoder and decoder"),
        ("DeformableDetr", {"decoder_n_points": 2}, "equal points in encoder and decoder"),
    ],
)
def test_a_form_that_ours_does_not_have(kind, settings, message):
    model = torch.nn.Module()
    model.config = getattr(transformers, f"{kind}Config")(backbone_config=hf_backbone((4,)), **settings)
    with pytest.raises(UserError, match=message):
        from_transformers(model)
