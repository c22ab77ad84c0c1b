"""Conditional DETR: `ConditionalDetrForObjectDetection`."""

from __future__ import annotations

from typing import Any

from codetr.weights.conversion import Rule
from codetr.weights.transformers_rules.family import Family, dense_model, dense_rules

_PROJECTIONS = {
    "q_content": "query_content",
    "q_pos": "query_pos",
    "q_pos_sine": "query_sine",
    "k_content": "key_content",
    "k_pos": "key_pos",
    "v": "value",
    "o": "out_proj",
}


def _model(config: Any) -> dict[str, Any]:
    return dense_model(config, base="conditional_detr", classification="focal")


def _rules(config: Any) -> list[Rule]:
    rules = [
        *dense_rules(),
        Rule(r"model\.decoder\.query_scale\.(.*)", r"base.decoder.spatial_query.query_scale.\1"),
        Rule(r"model\.decoder\.ref_point_head\.(.*)", r"base.ref_point_head.\1"),
    ]
    for theirs, ours in (("self_attn", "self_attention"), ("encoder_attn", "cross_attention")):
        layer, target = rf"model\.decoder\.(layers\.\d+)\.{theirs}", rf"base.decoder.\1.{ours}"
        rules.append(Rule(rf"{layer}_layer_norm\.(.*)", rf"{target}.norm.\2"))
        for short, name in _PROJECTIONS.items():
            rules.append(Rule(rf"{layer}\.{short}_proj\.(.*)", rf"{target}.{name}.\2"))
    return rules


CONDITIONAL_DETR = Family(_model, _rules)
