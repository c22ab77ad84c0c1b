"""Checkpoints of Deformable DETR's repository and its descendants come back under our names."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

import pytest
import torch
from torch import Tensor

from codetr.models.build import ModelSpec, build
from codetr.models.collaborative import Collaborative
from codetr.weights.conversion import check_against, convert_state
from codetr.weights.deformable import rules_deformable, rules_mmdetection_deformable
from codetr.weights.dino import rules_dino, with_spare_label

CLASSES, LAYERS = 3, 2
Names = Sequence[tuple[str, str]]

# Ours to theirs, written down from the published code and independent of the rules under test.
ORIGINAL: Names = [
    (r"base\.backbone\.net\.", "backbone.0.body."),
    (r"base\.neck\.projections\.", "input_proj."),
    (r"base\.neck\.extra\.0\.", "input_proj.{maps}."),
    (r"base\.encoder\.level_embed", "transformer.level_embed"),
    (r"base\.encoder\.(layers\.\d)\.self_attention\.norm", r"transformer.encoder.\1.norm1"),
    (r"base\.encoder\.(layers\.\d)\.self_attention", r"transformer.encoder.\1.self_attn"),
    (r"base\.encoder\.(layers\.\d)\.ffn\.norm", r"transformer.encoder.\1.norm2"),
    (r"base\.encoder\.(layers\.\d)\.ffn\.linear", r"transformer.encoder.\1.linear"),
    (r"base\.decoder\.(layers\.\d)\.self_attention\.in_proj\.", r"transformer.decoder.\1.self_attn.in_proj_"),
    (r"base\.decoder\.(layers\.\d)\.self_attention\.out_proj", r"transformer.decoder.\1.self_attn.out_proj"),
    (r"base\.decoder\.(layers\.\d)\.self_attention\.norm", r"transformer.decoder.\1.norm2"),
    (r"base\.decoder\.(layers\.\d)\.cross_attention\.norm", r"transformer.decoder.\1.norm1"),
    (r"base\.decoder\.(layers\.\d)\.cross_attention", r"transformer.decoder.\1.cross_attn"),
    (r"base\.decoder\.(layers\.\d)\.ffn\.norm", r"transformer.decoder.\1.norm3"),
    (r"base\.decoder\.(layers\.\d)\.ffn\.linear", r"transformer.decoder.\1.linear"),
    (r"base\.decoder\.position\.", "transformer.decoder."),
    (r"base\.decoder\.norm\.", "transformer.decoder.norm."),
    (r"base\.proposals\.project", "transformer.enc_output"),
    (r"base\.proposals\.norm", "transformer.enc_output_norm"),
    (r"base\.heads\.classes", "class_embed"),
    (r"base\.heads\.boxes", "bbox_embed"),
]
DEFORMABLE: Names = [
    (r"base\.reference_points", "transformer.reference_points"),
    (r"base\.query_embed", "query_embed"),
    (r"base\.proposal_embed", "transformer.pos_trans"),
    (r"base\.proposal_norm", "transformer.pos_trans_norm"),
    (r"base\.proposals\.heads\.classes\.0", f"class_embed.{LAYERS}"),
    (r"base\.proposals\.heads\.boxes\.0", f"bbox_embed.{LAYERS}"),
    *ORIGINAL,
]
DAB: Names = [(r"base\.query_embed", "tgt_embed"), (r"base\.anchor_embed", "refpoint_embed"), *ORIGINAL]
DINO: Names = [
    (r"base\.query_embed", "transformer.tgt_embed"),
    (r"base\.label_embed", "label_enc"),
    (r"base\.proposals\.heads\.classes\.0", "transformer.enc_out_class_embed"),
    (r"base\.proposals\.heads\.boxes\.0", "transformer.enc_out_bbox_embed"),
    *ORIGINAL,
]


# Of DINO in mmdetection 3.
MMDETECTION: Names = [
    (r"base\.backbone\.net\.", "backbone."),
    (r"base\.neck\.projections\.(\d)\.0", r"neck.convs.\1.conv"),
    (r"base\.neck\.projections\.(\d)\.1", r"neck.convs.\1.gn"),
    (r"base\.neck\.extra\.(\d)\.0", r"neck.extra_convs.\1.conv"),
    (r"base\.neck\.extra\.(\d)\.1", r"neck.extra_convs.\1.gn"),
    (r"base\.encoder\.level_embed", "level_embed"),
    (r"base\.encoder\.(layers\.\d)\.self_attention\.norm", r"encoder.\1.norms.0"),
    (r"base\.encoder\.(layers\.\d)\.self_attention", r"encoder.\1.self_attn"),
    (r"base\.encoder\.(layers\.\d)\.ffn\.norm", r"encoder.\1.norms.1"),
    (r"base\.decoder\.(layers\.\d)\.self_attention\.in_proj\.", r"decoder.\1.self_attn.attn.in_proj_"),
    (r"base\.decoder\.(layers\.\d)\.self_attention\.out_proj", r"decoder.\1.self_attn.attn.out_proj"),
    (r"base\.decoder\.(layers\.\d)\.self_attention\.norm", r"decoder.\1.norms.0"),
    (r"base\.decoder\.(layers\.\d)\.cross_attention\.norm", r"decoder.\1.norms.1"),
    (r"base\.decoder\.(layers\.\d)\.cross_attention", r"decoder.\1.cross_attn"),
    (r"base\.decoder\.(layers\.\d)\.ffn\.norm", r"decoder.\1.norms.2"),
    (r"base\.(encoder|decoder)\.(layers\.\d)\.ffn\.linear1", r"\1.\2.ffn.layers.0.0"),
    (r"base\.(encoder|decoder)\.(layers\.\d)\.ffn\.linear2", r"\1.\2.ffn.layers.1"),
    (r"base\.decoder\.position\.", "decoder."),
    (r"base\.decoder\.norm", "decoder.norm"),
    (r"base\.query_embed", "query_embedding"),
    (r"base\.label_embed", "dn_query_generator.label_embedding"),
    (r"base\.proposals\.project", "memory_trans_fc"),
    (r"base\.proposals\.norm", "memory_trans_norm"),
    (r"base\.proposals\.heads\.classes\.0", f"bbox_head.cls_branches.{LAYERS}"),
    (r"base\.heads\.classes", "bbox_head.cls_branches"),
    *(
        (rf"base\.{ours}\.layers\.{place}", rf"bbox_head.reg_branches.{theirs}.{2 * place}")
        for place in range(3)
        for ours, theirs in ((r"proposals\.heads\.boxes\.0", str(LAYERS)), (r"heads\.boxes\.(\d)", r"\1"))
    ),
]


def model(base: Mapping[str, Any], *, stages: Sequence[int] = (2, 3, 4), num_levels: int = 4) -> Collaborative:
    """Every tensor is random, so that none can stand for another."""
    size = {"num_queries": 8, "encoder_layers": 1, "decoder_layers": LAYERS, "num_heads": 2, "num_points": 2}
    options = {"channels": [8, 8, 8, 8], "stem_width": 8}
    backbone = {"name": "resnet", "model": "resnet10t", "pretrained": False, "frozen_stages": -1, "options": options}
    neck = {"name": "channel_mapper", "dim": 32, "num_groups": 4, "num_levels": num_levels}
    spec = {
        "base": {**size, "ffn_dim": 16, **base},
        "backbone": {**backbone, "stages": tuple(stages)},
        "neck": neck,
    }
    found = build(ModelSpec.model_validate(spec), CLASSES)
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for name, tensor in found.state_dict().items():
            # Variances of batch norms must be positive.
            tensor.copy_(0.2 * torch.rand(tensor.shape, generator=generator) + ("running_var" in name))
    return found


def renamed(state: Mapping[str, Tensor], names: Names, *, maps: int = 3) -> dict[str, Tensor]:
    """Under their names; a name of which no rule speaks is an error. maps: levels of the backbone."""
    found = {}
    for name, tensor in state.items():
        theirs = next((re.sub(f"^{ours}", theirs, name) for ours, theirs in names if re.match(ours, name)), None)
        assert theirs is not None, name
        found[theirs.replace("{maps}", str(maps))] = tensor.clone()
    return found


def exchanged(tensor: Tensor, dim: int = 0) -> Tensor:
    """Both halves of a dimension in the other order."""
    first, second = tensor.chunk(2, dim)
    return torch.cat([second, first], dim)


def with_aliases(state: Mapping[str, Tensor], *, copies: int = 1) -> dict[str, Tensor]:
    """As the repositories store heads: once more under the decoder, and shared ones once for each layer."""
    found = dict(state)
    for name, tensor in state.items():
        kind = name.split(".")[0]
        if kind in ("class_embed", "bbox_embed"):
            for layer in range(copies):
                found[name.replace(f"{kind}.0.", f"{kind}.{layer}.")] = tensor.clone()
    aliases = {f"transformer.decoder.{n}": t for n, t in found.items() if n.startswith(("class_embed", "bbox_embed"))}
    return found | aliases


REFINE = {"name": "deformable_detr", "box_refine": True}
FORMS: dict[str, dict[str, Any]] = {
    "one-stage": {"name": "deformable_detr"},
    "refine": REFINE,
    "two-stage": {**REFINE, "two_stage": True},
    "plus-plus": {**REFINE, "two_stage": True, "mixed_selection": True, "look_forward_twice": True},
}


def original(form: str) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Our state, and the same as the authors' code stores it."""
    own = model(FORMS[form]).state_dict()
    state = renamed(own, DEFORMABLE)
    for name, tensor in state.items():
        if name.startswith("transformer.pos_trans"):
            state[name] = exchanged(tensor)
        if name == "query_embed.weight" and form in ("one-stage", "refine"):
            state[name] = exchanged(tensor, dim=1)
    return own, with_aliases(state, copies=LAYERS if form == "one-stage" else 1)


def assert_same(found: dict[str, Tensor], own: dict[str, Tensor]) -> None:
    assert found.keys() == own.keys()
    assert [name for name in own if not torch.equal(found[name], own[name])] == []


@pytest.mark.parametrize("form", FORMS)
def test_deformable_detr_in_all_forms(form: str) -> None:
    own, state = original(form)
    result = check_against(convert_state(state, rules_deformable(state)), own)
    assert_same(result.state, own)
    dropped = {e.source for e in result.entries if e.outcome == "dropped"}
    repeated = {n for n in state if form == "one-stage" and n.startswith(("class_embed.1.", "bbox_embed.1."))}
    assert dropped == repeated | {n for n in state if n.startswith("transformer.decoder.") and "_embed." in n}


def test_the_norms_of_the_decoder_have_an_order_of_their_own() -> None:
    _, state = original("one-stage")
    found = convert_state(state, rules_deformable(state)).state
    layer = "transformer.decoder.layers.0"
    assert torch.equal(found["base.decoder.layers.0.self_attention.norm.bias"], state[f"{layer}.norm2.bias"])
    assert torch.equal(found["base.decoder.layers.0.cross_attention.norm.bias"], state[f"{layer}.norm1.bias"])


def test_heads_that_differ_are_not_shared() -> None:
    """A difference in one number of one tensor of the last layer is enough."""
    _, state = original("one-stage")
    state["bbox_embed.1.layers.2.bias"][3] += 1e-3
    found = convert_state(state, rules_deformable(state)).state
    assert "base.heads.boxes.1.layers.2.bias" in found and "base.heads.classes.1.bias" in found


def test_a_single_level() -> None:
    own = model(FORMS["one-stage"], stages=[4], num_levels=1).state_dict()
    state = renamed(own, DEFORMABLE)
    state["query_embed.weight"] = exchanged(state["query_embed.weight"], dim=1)
    assert_same(convert_state(state, rules_deformable(state)).state, own)


def test_dab_deformable() -> None:
    own = model({**REFINE, "learned_anchors": True}).state_dict()
    state = with_aliases(renamed(own, DAB))
    assert "transformer.decoder.query_scale.layers.1.weight" in state
    assert "transformer.decoder.ref_point_head.layers.0.weight" in state
    assert_same(check_against(convert_state(state, rules_deformable(state)), own).state, own)


@pytest.mark.parametrize("shared", [True, False])
@pytest.mark.parametrize("levels", [4, 5])
def test_dino(levels: int, shared: bool) -> None:
    stages = [1, 2, 3, 4][5 - levels :]
    own = model({"name": "dino", "shared_heads": shared}, stages=stages, num_levels=levels).state_dict()
    state = renamed(own, DINO, maps=levels - 1)
    state = with_aliases(state, copies=LAYERS if shared else 1)
    for name in ("transformer.tgt_embed.weight", "label_enc.weight", f"input_proj.{levels - 1}.0.weight"):
        assert name in state
    result = check_against(convert_state(state, rules_dino(state)), own)
    assert_same(result.state, own)
    assert result.count("unmatched") == 0


def test_dino_of_mmdetection() -> None:
    own = model({"name": "dino", "shared_heads": False}).state_dict()
    own["base.label_embed.weight"][-1] = 0
    state = renamed(own, MMDETECTION)
    labels = "dn_query_generator.label_embedding.weight"
    state[labels] = state[labels][:-1]
    state = with_spare_label(state, labels)
    assert_same(check_against(convert_state(state, rules_mmdetection_deformable(state)), own).state, own)


def test_a_spare_label_is_added_where_a_table_has_none() -> None:
    table = torch.ones(3, 2)
    assert with_spare_label({"labels": table}, "labels")["labels"].tolist() == [[1, 1], [1, 1], [1, 1], [0, 0]]
    assert with_spare_label({"other": table}, "labels") == {"other": table}
    assert len(table) == 3
