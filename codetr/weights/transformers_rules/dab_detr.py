"""DAB-DETR: `DabDetrForObjectDetection`."""

from __future__ import annotations

from typing import Any

from codetr.errors import UserError
from codetr.weights.conversion import Rule
from codetr.weights.transformers_rules.family import Family, backbone_rules, stack_sizes, timm_resnet

# transformers clamps as DETR does; the authors' code at 1e-3.
_EPS = 1e-5

_PROJECTIONS = {
    "query_content": "query_content",
    "query_pos": "query_pos",
    "query_pos_sine": "query_sine",
    "key_content": "key_content",
    "key_pos": "key_pos",
    "value": "value",
}


def _model(config: Any) -> dict[str, Any]:
    """Raises: UserError for a form that the authors' code has as an option and ours does not."""
    fixed = {"keep_query_pos": False, "normalize_before": False, "activation_function": "prelu"}
    fixed |= {"sine_position_embedding_scale": None, "temperature_width": config.temperature_height}
    for setting, value in fixed.items():
        if getattr(config, setting) != value:
            raise UserError(
                f"from_transformers reads DAB-DETR with {setting}={value!r}, got {getattr(config, setting)!r}"
            )
    return {
        "base": {
            "name": "dab_detr",
            **stack_sizes(config),
            "num_patterns": config.num_patterns,
            "temperature": config.temperature_height,
            "eps": _EPS,
        },
        "backbone": timm_resnet(config, stages=(4,)),
        "neck": {"name": "projection", "dim": config.hidden_size},
    }


def _rules(config: Any) -> list[Rule]:
    return [
        *backbone_rules(),
        Rule(r"model\.input_projection\.(.*)", r"base.neck.conv.\1"),
        Rule(r"model\.query_refpoint_embeddings\.(.*)", r"base.anchor_embed.\1"),
        Rule(r"model\.patterns\.(.*)", r"base.pattern_embed.\1"),
        *_encoder_rules(),
        *_decoder_rules(),
        *_feed_forward_rules("encoder", ""),
        *_feed_forward_rules("decoder", r"mlp\."),
        Rule(r"class_embed\.(.*)", r"base.heads.classes.0.\1"),
        Rule(r"bbox_predictor\.(.*)", r"base.heads.boxes.0.\1"),
        Rule(r"model\.decoder\.bbox_embed\..*", "the same tensor stands at the top level", "drop"),
    ]


def _encoder_rules() -> list[Rule]:
    layer, target = r"model\.encoder\.(layers\.\d+)\.self_attn", r"base.encoder.\1.self_attention"
    return [
        *(Rule(rf"{layer}\.{x}_proj\.(.*)", rf"{target}.in_proj.\2", "stack", i) for i, x in enumerate("qkv")),
        Rule(rf"{layer}\.out_proj\.(.*)", rf"{target}.out_proj.\2"),
        Rule(rf"{layer}_layer_norm\.(.*)", rf"{target}.norm.\2"),
        Rule(r"model\.encoder\.query_scale\.(.*)", r"base.encoder.query_scale.\1"),
    ]


def _decoder_rules() -> list[Rule]:
    rules = [
        Rule(r"model\.decoder\.(query_scale|ref_anchor_head)\.(.*)", r"base.decoder.spatial_query.\1.\2"),
        Rule(r"model\.decoder\.ref_point_head\.(.*)", r"base.decoder.ref_point_head.\1"),
        Rule(r"model\.decoder\.layernorm\.(.*)", r"base.decoder.norm.\1"),
    ]
    for theirs, ours in (("self_attn", "self_attention"), ("cross_attn", "cross_attention")):
        layer, target = rf"model\.decoder\.(layers\.\d+)\.{theirs}\.{theirs}", rf"base.decoder.\1.{ours}"
        rules += [
            Rule(rf"{layer}\.output_proj\.(.*)", rf"{target}.out_proj.\2"),
            Rule(rf"{layer}_layer_norm\.(.*)", rf"{target}.norm.\2"),
            *(Rule(rf"{layer}_{short}_proj\.(.*)", rf"{target}.{name}.\2") for short, name in _PROJECTIONS.items()),
        ]
    return rules


def _feed_forward_rules(stack: str, within: str) -> list[Rule]:
    layer, target = rf"model\.{stack}\.(layers\.\d+)\.{within}", rf"base.{stack}.\1.ffn"
    return [
        Rule(rf"{layer}fc([12])\.(.*)", rf"{target}.linear\2.\3"),
        Rule(rf"{layer}activation_fn\.(.*)", rf"{target}.activation.\2"),
        Rule(rf"{layer}final_layer_norm\.(.*)", rf"{target}.norm.\2"),
    ]


DAB_DETR = Family(_model, _rules)
