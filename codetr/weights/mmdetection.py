"""Checkpoints in mmdetection's layout of DETR and Conditional DETR, as rules for `conversion`."""

from __future__ import annotations

from codetr.weights.conversion import Rule

_LAYER = r"(encoder|decoder)\.(layers\.\d+)\."
# Their names in the attention of Conditional DETR, and ours.
_CONDITIONAL = {
    "qcontent_proj": "query_content",
    "qpos_proj": "query_pos",
    "qpos_sine_proj": "query_sine",
    "kcontent_proj": "key_content",
    "kpos_proj": "key_pos",
    "v_proj": "value",
    "out_proj": "out_proj",
}


def detr_rules() -> list[Rule]:
    return [
        *dense_rules(),
        *_fused_rules("decoder", "self_attn", "self_attention"),
        *_fused_rules("decoder", "cross_attn", "cross_attention"),
    ]


def conditional_detr_rules() -> list[Rule]:
    return [
        *dense_rules(),
        *conditional_attention_rules(),
        Rule(r"decoder\.ref_point_head\.(.*)", r"base.ref_point_head.\1"),
        Rule(r"decoder\.query_scale\.(.*)", r"base.decoder.spatial_query.query_scale.\1"),
    ]


def dense_rules() -> list[Rule]:
    """All of a single-scale detector but its decoder's attention; the box head is split in two."""
    return [
        Rule(r"backbone\..*num_batches_tracked", "bookkeeping of batch norm", "drop"),
        Rule(r"backbone\.(.*)", r"base.backbone.net.\1"),
        Rule(r"neck\.convs\.0\.conv\.(.*)", r"base.neck.conv.\1"),
        *_fused_rules("encoder", "self_attn", "self_attention"),
        Rule(rf"{_LAYER}ffn\.layers\.0\.0\.(.*)", r"base.\1.\2.ffn.linear1.\3"),
        Rule(rf"{_LAYER}ffn\.layers\.1\.(.*)", r"base.\1.\2.ffn.linear2.\3"),
        Rule(r"encoder\.(layers\.\d+)\.norms\.0\.(.*)", r"base.encoder.\1.self_attention.norm.\2"),
        Rule(r"encoder\.(layers\.\d+)\.norms\.1\.(.*)", r"base.encoder.\1.ffn.norm.\2"),
        Rule(r"decoder\.(layers\.\d+)\.norms\.0\.(.*)", r"base.decoder.\1.self_attention.norm.\2"),
        Rule(r"decoder\.(layers\.\d+)\.norms\.1\.(.*)", r"base.decoder.\1.cross_attention.norm.\2"),
        Rule(r"decoder\.(layers\.\d+)\.norms\.2\.(.*)", r"base.decoder.\1.ffn.norm.\2"),
        Rule(r"decoder\.post_norm\.(.*)", r"base.decoder.norm.\1"),
        Rule(r"query_embedding\.(.*)", r"base.query_embed.\1"),
        Rule(r"bbox_head\.fc_cls\.(.*)", r"base.heads.classes.0.\1"),
        Rule(r"bbox_head\.reg_ffn\.layers\.0\.0\.(.*)", r"base.heads.boxes.0.layers.0.\1"),
        Rule(r"bbox_head\.reg_ffn\.layers\.1\.(.*)", r"base.heads.boxes.0.layers.1.\1"),
        Rule(r"bbox_head\.fc_reg\.(.*)", r"base.heads.boxes.0.layers.2.\1"),
    ]


def conditional_attention_rules() -> list[Rule]:
    """The decoder's attention in Conditional DETR and DAB-DETR."""
    return [
        Rule(rf"decoder\.(layers\.\d+)\.{block}_attn\.{theirs}\.(.*)", rf"base.decoder.\1.{block}_attention.{ours}.\2")
        for block in ("self", "cross")
        for theirs, ours in _CONDITIONAL.items()
    ]


def _fused_rules(stack: str, theirs: str, ours: str) -> list[Rule]:
    layer, target = rf"{stack}\.(layers\.\d+)\.{theirs}\.attn\.", rf"base.{stack}.\1.{ours}."
    return [
        Rule(rf"{layer}in_proj_(weight|bias)", rf"{target}in_proj.\2"),
        Rule(rf"{layer}out_proj\.(.*)", rf"{target}out_proj.\2"),
    ]
