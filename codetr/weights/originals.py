"""Checkpoints of the repositories of DETR and of its successors on one map, as rules for `conversion`."""

from __future__ import annotations

from codetr.weights.conversion import Rule

_LAYER = r"transformer\.(encoder|decoder)\.(layers\.\d+)\."
_DECODER = r"transformer\.decoder\.(layers\.\d+)\."
# Their names in the attention of Conditional DETR, after sa_ or ca_, and ours.
_CONDITIONAL = {
    "qcontent_proj": "query_content",
    "qpos_proj": "query_pos",
    "qpos_sine_proj": "query_sine",
    "kcontent_proj": "key_content",
    "kpos_proj": "key_pos",
    "v_proj": "value",
}


def detr_rules() -> list[Rule]:
    return [
        *dense_rules(),
        *_fused_rules("decoder", "self_attn", "self_attention"),
        *_fused_rules("decoder", "multihead_attn", "cross_attention"),
        Rule(r"query_embed\.(.*)", r"base.query_embed.\1"),
    ]


def conditional_detr_rules() -> list[Rule]:
    return [
        *dense_rules(),
        *conditional_attention_rules(),
        Rule(r"query_embed\.(.*)", r"base.query_embed.\1"),
        Rule(r"transformer\.decoder\.ref_point_head\.(.*)", r"base.ref_point_head.\1"),
        Rule(r"transformer\.decoder\.query_scale\.(.*)", r"base.decoder.spatial_query.query_scale.\1"),
    ]


def dense_rules() -> list[Rule]:
    """All of a single-scale detector but its queries and its decoder's attention."""
    return [
        Rule(r"backbone\.0\.body\.(.*)", r"base.backbone.net.\1"),
        Rule(r"input_proj\.(.*)", r"base.neck.conv.\1"),
        *_fused_rules("encoder", "self_attn", "self_attention"),
        Rule(rf"{_LAYER}linear([12])\.(.*)", r"base.\1.\2.ffn.linear\3.\4"),
        Rule(r"transformer\.encoder\.(layers\.\d+)\.norm1\.(.*)", r"base.encoder.\1.self_attention.norm.\2"),
        Rule(r"transformer\.encoder\.(layers\.\d+)\.norm2\.(.*)", r"base.encoder.\1.ffn.norm.\2"),
        Rule(rf"{_DECODER}norm1\.(.*)", r"base.decoder.\1.self_attention.norm.\2"),
        Rule(rf"{_DECODER}norm2\.(.*)", r"base.decoder.\1.cross_attention.norm.\2"),
        Rule(rf"{_DECODER}norm3\.(.*)", r"base.decoder.\1.ffn.norm.\2"),
        Rule(r"transformer\.decoder\.norm\.(.*)", r"base.decoder.norm.\1"),
        Rule(r"class_embed\.(.*)", r"base.heads.classes.0.\1"),
        Rule(r"bbox_embed\.(.*)", r"base.heads.boxes.0.\1"),
    ]


def conditional_attention_rules() -> list[Rule]:
    """The decoder's attention in Conditional DETR and DAB-DETR."""
    rules = []
    for short, theirs, ours in (("sa", "self_attn", "self_attention"), ("ca", "cross_attn", "cross_attention")):
        rules.append(Rule(rf"{_DECODER}{theirs}\.out_proj\.(.*)", rf"base.decoder.\1.{ours}.out_proj.\2"))
        for name, own in _CONDITIONAL.items():
            rules.append(Rule(rf"{_DECODER}{short}_{name}\.(.*)", rf"base.decoder.\1.{ours}.{own}.\2"))
    return rules


def _fused_rules(stack: str, theirs: str, ours: str) -> list[Rule]:
    layer, target = rf"transformer\.{stack}\.(layers\.\d+)\.{theirs}\.", rf"base.{stack}.\1.{ours}."
    return [
        Rule(rf"{layer}in_proj_(weight|bias)", rf"{target}in_proj.\2"),
        Rule(rf"{layer}out_proj\.(.*)", rf"{target}out_proj.\2"),
    ]
