"""DAB-DETR and DN-DETR from elsewhere: transformers' own implementation, and the names in the authors' files."""

from __future__ import annotations

import json
import re
from argparse import Namespace

import pytest
import torch

from codetr.api import build, load_detector
from codetr.errors import UserError
from codetr.structures import ImageBatch
from codetr.weights import from_transformers
from codetr.weights.convert import convert_checkpoint
from codetr.weights.layouts import recognise

# Float32 sums in another order: observed differences are below 1e-5; 1e-4 is the promise.
TOLERANCE = 1e-4


def hf_model(**settings):
    transformers = pytest.importorskip("transformers")
    backbone = transformers.TimmBackboneConfig(
        backbone="resnet18",
        out_indices=(1, 2, 3, 4),
        features_only=True,
        use_pretrained_backbone=False,
        output_stride=settings.pop("output_stride", 32),
    )
    config = transformers.DabDetrConfig(
        num_labels=5,
        hidden_size=64,
        encoder_layers=2,
        decoder_layers=3,
        encoder_attention_heads=4,
        decoder_attention_heads=4,
        encoder_ffn_dim=48,
        decoder_ffn_dim=48,
        num_queries=11,
        backbone_config=backbone,
        **settings,
    )
    torch.manual_seed(0)
    model = transformers.DabDetrForObjectDetection(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            # The initial values are too regular to tell a wrong order from a right one.
            parameter.add_(0.05 * torch.randn_like(parameter))
        # Anchors all over the image, some of them reaching to where the inverse sigmoid is clamped at 1e-3.
        anchors = model.model.query_refpoint_embeddings.weight
        anchors.copy_(2 * torch.randn_like(anchors))
        anchors[0] = torch.tensor([8.0, -8.0, -7.5, 7.5])
    return model


def padded_batch():
    """Two images of different size, none of them a multiple of the stride."""
    height, width = 130, 163
    pixels = torch.randn(2, 3, height, width)
    padding = torch.zeros(2, height, width, dtype=torch.bool)
    padding[1, 97:] = True
    padding[1, :, 110:] = True
    pixels = pixels.masked_fill(padding[:, None], 0.0)
    return ImageBatch(pixels, padding, torch.tensor([[130.0, 163.0], [97.0, 110.0]]))


@pytest.mark.parametrize(
    "settings",
    [{}, {"num_patterns": 3}, {"temperature_height": 10, "temperature_width": 10, "output_stride": 16}],
    ids=["plain", "patterns", "stride-16"],
)
@torch.no_grad()
def test_every_layer_equals_transformers(settings):
    theirs = hf_model(**settings)
    ours = from_transformers(theirs).base
    images = padded_batch()
    mask = (~images.padding).long()
    expected = theirs.model(pixel_values=images.pixels, pixel_mask=mask, output_hidden_states=True)
    memory = ours.encode(images)
    output = ours.decode(memory, ours.propose(memory, None).groups)
    torch.testing.assert_close(memory.tokens, expected.encoder_last_hidden_state, atol=TOLERANCE, rtol=0)
    hidden, reference = expected.intermediate_hidden_states, expected.reference_points
    boxes = (theirs.bbox_predictor(hidden) + torch.logit(reference, eps=1e-5)).sigmoid()
    torch.testing.assert_close(output.logits, theirs.class_embed(hidden), atol=TOLERANCE, rtol=0)
    torch.testing.assert_close(output.boxes, boxes, atol=TOLERANCE, rtol=0)
    last = theirs(pixel_values=images.pixels, pixel_mask=mask)
    torch.testing.assert_close(output.logits[-1], last.logits, atol=TOLERANCE, rtol=0)
    torch.testing.assert_close(output.boxes[-1], last.pred_boxes, atol=TOLERANCE, rtol=0)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"keep_query_pos": True}, "keep_query_pos"),
        ({"activation_function": "relu"}, "activation_function"),
        ({"temperature_width": 10}, "temperature_width=20"),
    ],
)
def test_a_form_that_ours_does_not_have_is_refused(settings, message):
    with pytest.raises(UserError, match=message):
        from_transformers(hf_model(**settings))


SPEC = """\
extends: [bases/{base}, backbones/resnet50]
base: {{num_queries: 6, encoder_layers: 1, decoder_layers: 2, num_heads: 2, ffn_dim: 16{more}}}
backbone: {{model: resnet10t, pretrained: false, frozen_stages: -1, options: {{channels: [8, 8, 8, 8], stem_width: 8}}}}
neck: {{dim: 32{groups}}}
"""
# The zoo's spec of the published weights: a small one of the same form.
SPECS = {
    ("dab_detr_r50", "plain"): SPEC.format(base="dab_detr", more="", groups=""),
    ("dab_detr_r50", "patterns"): SPEC.format(base="dab_detr", more=", num_patterns: 2", groups=""),
    ("dn_detr_r50", "plain"): SPEC.format(base="dn_detr", more="", groups=""),
    ("dn_deformable_r50", "plain"): SPEC.format(base="dn_deformable_detr", more="", groups=", num_groups: 4"),
}
IDS = (1, 3, 4)  # of the three categories, so that classes 0 and 2 of the authors' five are none

# Ours to theirs, written down from the published names and independent of the rules under test.
NAMES = [
    (r"base\.backbone\.net\.", "backbone.0.body."),
    (r"base\.anchor_embed\.", "refpoint_embed."),
    (r"base\.query_embed\.", "tgt_embed."),
    (r"base\.label_embed\.", "label_enc."),
    (r"base\.pattern_embed\.", "transformer.patterns."),
    (r"self_attention\.in_proj\.", "self_attn.in_proj_"),
    (r"self_attention\.out_proj\.", "self_attn.out_proj."),
    (r"ffn\.(linear\d|activation)", r"\1"),
    (r"(base\.encoder\..*)self_attention\.norm\.", r"\1norm1."),
    (r"(base\.encoder\..*)ffn\.norm\.", r"\1norm2."),
    (r"(base\.decoder\..*)ffn\.norm\.", r"\1norm3."),
]
DENSE = [
    (r"base\.neck\.conv\.", "input_proj."),
    (r"base\.heads\.classes\.0\.", "class_embed."),
    (r"base\.heads\.boxes\.0\.", "bbox_embed."),
    (r"(base\.decoder\..*)self_attention\.norm\.", r"\1norm1."),
    (r"(base\.decoder\..*)cross_attention\.norm\.", r"\1norm2."),
    (r"cross_attention\.out_proj\.", "cross_attn.out_proj."),
    (r"base\.decoder\.spatial_query\.", "base.decoder."),
    (r"self_attention\.(query|key)_(content|pos)\.", r"sa_\1_\2_proj."),
    (r"cross_attention\.(query|key)_(content|pos)\.", r"ca_\1_\2_proj."),
    (r"a_(q|k)(?:uery|ey)_", r"a_\1"),
    (r"cross_attention\.query_sine\.", "ca_qpos_sine_proj."),
    (r"self_attention\.value\.", "sa_v_proj."),
    (r"cross_attention\.value\.", "ca_v_proj."),
]
DEFORMABLE = [
    (r"base\.neck\.projections\.", "input_proj."),
    (r"base\.neck\.extra\.0\.", "input_proj.3."),
    (r"base\.heads\.classes\.", "class_embed."),
    (r"base\.heads\.boxes\.", "bbox_embed."),
    (r"(base\.decoder\..*)self_attention\.norm\.", r"\1norm2."),
    (r"(base\.decoder\..*)cross_attention\.norm\.", r"\1norm1."),
    (r"base\.encoder\.level_embed", "transformer.level_embed"),
    (r"(self|cross)_attention\.", r"\1_attn."),
    (r"base\.decoder\.position\.", "base.decoder."),
]


def as_authors_name(state):
    deformable = "base.encoder.level_embed" in state
    renamed = {}
    for name, tensor in state.items():
        for pattern, replacement in [*NAMES, *(DEFORMABLE if deformable else DENSE)]:
            name = re.sub(pattern, replacement, name)
        renamed[re.sub(r"^base\.(encoder|decoder)\.", r"transformer.\1.", name)] = tensor
    # The decoder holds the box heads a second time, under a name of its own.
    return renamed | {f"transformer.decoder.{n}": t for n, t in renamed.items() if n.startswith("bbox_embed.")}


@pytest.mark.parametrize(
    ("published", "text"), [(key[0], text) for key, text in SPECS.items()], ids=map("-".join, SPECS)
)
def test_a_file_of_the_authors_detects_the_same(published, text, tmp_path):
    spec = tmp_path / "tiny.yaml"
    spec.write_text(text)
    model = build(spec, classes=5).eval()
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for name, tensor in model.state_dict().items():
            tensor.copy_(0.2 * torch.rand(tensor.shape, generator=generator) + ("running_var" in name))
    state = as_authors_name(model.state_dict())
    assert not [name for name in state if name.startswith("base.")]
    assert recognise(state).spec == published
    file, output = tmp_path / "published.pth", tmp_path / "ours.safetensors"
    torch.save({"model": state, "epoch": 49, "args": Namespace(lr=1e-4)}, file)
    categories = {"categories": [{"id": i, "name": f"kind {i}"} for i in IDS], "annotations": []}
    image = {"id": 1, "file_name": "1.jpg", "width": 8, "height": 8}
    (tmp_path / "instances.json").write_text(json.dumps({"images": [image], **categories}))
    convert_checkpoint(file, output, spec=str(spec), annotations=tmp_path / "instances.json")
    ours = load_detector(output, device="cpu").model.base
    images = padded_batch()
    with torch.no_grad():
        outputs = []
        for base in (ours, model.base):
            memory = base.encode(images)
            outputs.append(base.decode(memory, base.propose(memory, None).groups))
    torch.testing.assert_close(outputs[0].logits, outputs[1].logits[..., list(IDS)], rtol=0, atol=1e-6)
    torch.testing.assert_close(outputs[0].boxes, outputs[1].boxes, rtol=0, atol=0)
    if published.startswith("dn"):
        # The rows of the categories, and that of the label "unknown", the last.
        assert torch.equal(ours.label_embed.weight, model.base.label_embed.weight[[*IDS, 5]])
