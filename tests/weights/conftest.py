"""A small detector, and its weights under the names and in the layout of the authors' checkpoints."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from torch import Tensor

from codetr.api import build
from codetr.models.collaborative import Collaborative

SPEC = """\
extends: [bases/deformable_detr_pp, backbones/resnet50]
base: {num_queries: 8, encoder_layers: 1, decoder_layers: 2, num_heads: 2, num_points: 2, ffn_dim: 16}
backbone: {model: resnet10t, pretrained: false, frozen_stages: -1, options: {channels: [8, 8, 8, 8], stem_width: 8}}
neck: {dim: 32, num_groups: 4, num_levels: 4, bias: false}
heads: {faster_rcnn: {rpn: {channels: 32}, roi: {hidden: 32}}, atss: {}}
data: {resize: {size: 64, max_size: 64}}
"""
CLASSES, LAYERS = 3, 2
HEADS = ("faster_rcnn", "atss")

# Ours to theirs, written down from the published code and independent of the rules under test.
NAMES = [
    (r"base\.backbone\.net\.", "backbone."),
    (r"base\.neck\.projections\.(\d)\.0", r"neck.convs.\1.conv"),
    (r"base\.neck\.projections\.(\d)\.1", r"neck.convs.\1.gn"),
    (r"base\.neck\.extra\.(\d)\.0", r"neck.extra_convs.\1.conv"),
    (r"base\.neck\.extra\.(\d)\.1", r"neck.extra_convs.\1.gn"),
    (r"base\.encoder\.level_embed", "query_head.transformer.level_embeds"),
    (r"(base\.encoder\.layers\.\d)\.self_attention\.norm", r"\1.norms.0"),
    (r"(base\.encoder\.layers\.\d)\.self_attention", r"\1.attentions.0"),
    (r"(base\.encoder\.layers\.\d)\.ffn\.norm", r"\1.norms.1"),
    (r"(base\.decoder\.layers\.\d)\.self_attention\.in_proj\.", r"\1.attentions.0.attn.in_proj_"),
    (r"(base\.decoder\.layers\.\d)\.self_attention\.out_proj", r"\1.attentions.0.attn.out_proj"),
    (r"(base\.decoder\.layers\.\d)\.self_attention\.norm", r"\1.norms.0"),
    (r"(base\.decoder\.layers\.\d)\.cross_attention\.norm", r"\1.norms.1"),
    (r"(base\.decoder\.layers\.\d)\.cross_attention", r"\1.attentions.1"),
    (r"(base\.decoder\.layers\.\d)\.ffn\.norm", r"\1.norms.2"),
    (r"ffn\.linear1", "ffns.0.layers.0.0"),
    (r"ffn\.linear2", "ffns.0.layers.1"),
    (r"base\.(encoder|decoder)\.", r"query_head.transformer.\1."),
    (r"base\.proposals\.project", "query_head.transformer.enc_output"),
    (r"base\.proposals\.norm", "query_head.transformer.enc_output_norm"),
    (r"base\.proposal_embed", "query_head.transformer.pos_trans"),
    (r"base\.proposal_norm", "query_head.transformer.pos_trans_norm"),
    (r"base\.query_embed", "query_head.query_embedding"),
    (r"base\.proposals\.heads\.(classes|boxes)\.0", rf"base.heads.\1.{LAYERS}"),
    (r"base\.heads\.classes\.", "query_head.cls_branches."),
    (r"base\.heads\.boxes\.(\d)\.layers\.0", r"query_head.reg_branches.\1.0"),
    (r"base\.heads\.boxes\.(\d)\.layers\.1", r"query_head.reg_branches.\1.2"),
    (r"base\.heads\.boxes\.(\d)\.layers\.2", r"query_head.reg_branches.\1.4"),
    (r"adapter\.convs\.0", "query_head.downsample"),
    (r"heads\.faster_rcnn\.rpn\.conv", "rpn_head.rpn_conv"),
    (r"heads\.faster_rcnn\.rpn\.objectness", "rpn_head.rpn_cls"),
    (r"heads\.faster_rcnn\.rpn\.deltas", "rpn_head.rpn_reg"),
    (r"heads\.faster_rcnn\.roi\.fc", "roi_head.0.bbox_head.shared_fcs"),
    (r"heads\.faster_rcnn\.roi\.cls", "roi_head.0.bbox_head.fc_cls"),
    (r"heads\.faster_rcnn\.roi\.deltas", "roi_head.0.bbox_head.fc_reg"),
    (r"heads\.atss\.cls_tower\.(\d)\.conv", r"bbox_head.0.cls_convs.\1.conv"),
    (r"heads\.atss\.cls_tower\.(\d)\.norm", r"bbox_head.0.cls_convs.\1.gn"),
    (r"heads\.atss\.box_tower\.(\d)\.conv", r"bbox_head.0.reg_convs.\1.conv"),
    (r"heads\.atss\.box_tower\.(\d)\.norm", r"bbox_head.0.reg_convs.\1.gn"),
    (r"heads\.atss\.scales\.(\d)", r"bbox_head.0.scales.\1.scale"),
    (r"heads\.atss\.box\.", "bbox_head.0.atss_reg."),
    (r"heads\.atss\.", "bbox_head.0.atss_"),
    *(
        (rf"positive_queries\.{head}\.{ours}\.", rf"query_head.transformer.{theirs}.{index}.")
        for index, head in enumerate(HEADS)
        for ours, theirs in (
            ("position", "aux_pos_trans"),
            ("position_norm", "aux_pos_trans_norm"),
            ("feature", "pos_feats_trans"),
            ("feature_norm", "pos_feats_norm"),
        )
    ),
]
HALVES = re.compile(r"query_head\.transformer\.(aux_)?pos_trans(_norm)?\..*")


@dataclass(frozen=True)
class Official:
    """A model, its weights as the authors' file holds them, and the file of its spec."""

    model: Collaborative
    state: dict[str, Tensor]
    spec: Path


def exchanged(tensor: Tensor) -> Tensor:
    """Both halves of dimension 0 in the other order."""
    half = len(tensor) // 2
    return torch.cat([tensor[half:], tensor[:half]])


@pytest.fixture(scope="session")
def official(tmp_path_factory: pytest.TempPathFactory) -> Official:
    """Every tensor is random, so that none can stand for another."""
    spec = tmp_path_factory.mktemp("official") / "tiny.yaml"
    spec.write_text(SPEC)
    model = build(spec, classes=CLASSES).eval()
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for name, tensor in model.state_dict().items():
            # Variances of batch norms must be positive.
            tensor.copy_(0.2 * torch.rand(tensor.shape, generator=generator) + ("running_var" in name))
    scalars = torch.tensor([[0.25], [-0.5]])
    state = {}
    for name, tensor in model.state_dict().items():
        value = tensor.clone()
        if name.startswith("positive_queries.") and name.endswith("position_norm.bias"):
            value[len(value) // 2 :] -= scalars[HEADS.index(name.split(".")[1])]
        theirs = name
        for pattern, replacement in NAMES:
            theirs = re.sub(f"^{pattern}" if pattern[0] in "bhap(" else pattern, replacement, theirs)
        value = value.squeeze() if ".scales." in name else value  # theirs are numbers, ours vectors of one
        state[theirs] = exchanged(value) if HALVES.fullmatch(theirs) else value
    state["query_head.transformer.head_pos_embed.weight"] = scalars
    return Official(model, state, spec)
