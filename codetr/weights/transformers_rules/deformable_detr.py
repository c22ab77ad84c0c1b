"""Deformable DETR in all its forms: `DeformableDetrForObjectDetection`."""

from __future__ import annotations

from typing import Any

from codetr.errors import UserError
from codetr.weights.conversion import Rule
from codetr.weights.transformers_rules.family import (
    Family,
    backbone_rules,
    feed_forward_rules,
    fused_rules,
    stack_sizes,
    timm_resnet,
)

_ATTENTION = "(sampling_offsets|attention_weights|value_proj|output_proj)"


def _model(config: Any) -> dict[str, Any]:
    if config.encoder_n_points != config.decoder_n_points:
        raise UserError("from_transformers reads models with equal points in encoder and decoder")
    return {
        "base": {
            "name": "deformable_detr",
            **stack_sizes(config),
            "num_points": config.encoder_n_points,
            "box_refine": config.with_box_refine,
            "two_stage": config.two_stage,
        },
        # One level is C5 alone, whatever the backbone's own list says.
        "backbone": timm_resnet(config, stages=None if config.num_feature_levels > 1 else (4,)),
        "neck": {"name": "channel_mapper", "dim": config.d_model, "num_levels": config.num_feature_levels},
    }


def _rules(config: Any) -> list[Rule]:
    maps = len(config.backbone_config.out_indices) if config.num_feature_levels > 1 else 1
    encoder, decoder = r"model\.encoder\.(layers\.\d+)\.", r"model\.decoder\.(layers\.\d+)\."
    return [
        *backbone_rules(),
        Rule(rf"model\.input_proj\.([0-{maps - 1}])\.(.*)", r"base.neck.projections.\1.\2"),
        *(
            Rule(rf"model\.input_proj\.{maps + extra}\.(.*)", rf"base.neck.extra.{extra}.\1")
            for extra in range(config.num_feature_levels - maps)
        ),
        Rule(r"model\.level_embed", "base.encoder.level_embed"),
        Rule(rf"{encoder}self_attn\.({_ATTENTION}\..*)", r"base.encoder.\1.self_attention.\2"),
        Rule(rf"{encoder}self_attn_layer_norm\.(.*)", r"base.encoder.\1.self_attention.norm.\2"),
        Rule(rf"{decoder}encoder_attn\.({_ATTENTION}\..*)", r"base.decoder.\1.cross_attention.\2"),
        Rule(rf"{decoder}encoder_attn_layer_norm\.(.*)", r"base.decoder.\1.cross_attention.norm.\2"),
        *fused_rules("decoder", "self_attn", "self_attention"),
        *feed_forward_rules(),
        *_query_rules(config),
    ]


def _query_rules(config: Any) -> list[Rule]:
    """Where queries come from and what is predicted from them. Theirs: (pos, content) halves; ours: (content, pos)."""
    rules = [
        Rule(r"model\.query_position_embeddings\.weight", "base.query_embed.weight", "swap_columns"),
        Rule(r"model\.reference_points\.(.*)", r"base.reference_points.\1"),
        Rule(r"model\.enc_output\.(.*)", r"base.proposals.project.\1"),
        Rule(r"model\.enc_output_norm\.(.*)", r"base.proposals.norm.\1"),
        Rule(r"model\.pos_trans\.(.*)", r"base.proposal_embed.\1", "swap"),
        Rule(r"model\.pos_trans_norm\.(.*)", r"base.proposal_norm.\1", "swap"),
        Rule(r"model\.decoder\.(class_embed|bbox_embed)\..*", "the same tensor stands at the top level", "drop"),
    ]
    if config.two_stage:
        last = config.decoder_layers
        rules += [
            Rule(rf"class_embed\.{last}\.(.*)", r"base.proposals.heads.classes.0.\1"),
            Rule(rf"bbox_embed\.{last}\.(.*)", r"base.proposals.heads.boxes.0.\1"),
        ]
    if not config.with_box_refine:
        rules.append(Rule(r"(class_embed|bbox_embed)\.[1-9].*", "the layers share one prediction head", "drop"))
    return [
        *rules,
        Rule(r"class_embed\.(.*)", r"base.heads.classes.\1"),
        Rule(r"bbox_embed\.(.*)", r"base.heads.boxes.\1"),
    ]


DEFORMABLE_DETR = Family(_model, _rules)
