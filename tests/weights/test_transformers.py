"""Our Deformable DETR against the independent implementation in transformers: every layer's logits and boxes."""

from __future__ import annotations

import pytest
import torch

from codetr.structures import ImageBatch
from codetr.weights import from_transformers

transformers = pytest.importorskip("transformers")

# Float32 sums over 4 x 64 channels in another order: observed differences are below 1e-5; 1e-4 is the promise.
TOLERANCE = 1e-4


def hf_model(stages=(2, 3, 4), **settings):
    backbone = transformers.TimmBackboneConfig(
        backbone="resnet18", out_indices=stages, features_only=True, use_pretrained_backbone=False
    )
    config = transformers.DeformableDetrConfig(
        num_labels=5,
        d_model=64,
        encoder_layers=2,
        decoder_layers=3,
        encoder_attention_heads=4,
        decoder_attention_heads=4,
        encoder_ffn_dim=48,
        decoder_ffn_dim=48,
        num_queries=11,
        backbone_config=backbone,
        two_stage_num_proposals=11,
        **settings,
    )
    torch.manual_seed(0)
    model = transformers.DeformableDetrForObjectDetection(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            # The initial offsets, class biases and box deltas are too regular to tell a wrong order from a right one.
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
    ],
    ids=["one-stage", "refine", "two-stage", "single-scale"],
)
@torch.no_grad()
def test_every_layer_equals_transformers(settings):
    theirs = hf_model(**settings)
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
