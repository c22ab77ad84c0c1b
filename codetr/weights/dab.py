"""Checkpoints of the repositories of DAB-DETR and DN-DETR, as rules for `conversion`.

The deformable form of DAB-DETR is `deformable_detr` with learned anchors here, that of DN-DETR `dn_detr`; both go by
the rules of Deformable DETR.
"""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from codetr.weights.conversion import Rule
from codetr.weights.deformable import rules_deformable
from codetr.weights.originals import conditional_attention_rules, dense_rules


def dab_rules() -> list[Rule]:
    """Of the dense forms, with denoising or without."""
    layer = r"transformer\.(encoder|decoder)\.(layers\.\d+)\."
    return [
        Rule(r"refpoint_embed\.(.*)", r"base.anchor_embed.\1"),
        Rule(r"label_enc\.(.*)", r"base.label_embed.\1"),
        Rule(r"transformer\.patterns\.(.*)", r"base.pattern_embed.\1"),
        Rule(r"transformer\.decoder\.bbox_embed\..*", "the same tensor stands at the top level", "drop"),
        Rule(rf"{layer}activation\.(.*)", r"base.\1.\2.ffn.activation.\3"),
        Rule(r"transformer\.encoder\.query_scale\.(.*)", r"base.encoder.query_scale.\1"),
        Rule(r"transformer\.decoder\.(query_scale|ref_anchor_head)\.(.*)", r"base.decoder.spatial_query.\1.\2"),
        Rule(r"transformer\.decoder\.ref_point_head\.(.*)", r"base.decoder.ref_point_head.\1"),
        *conditional_attention_rules(),
        *dense_rules(),
    ]


def dn_deformable_rules(state: Mapping[str, Tensor]) -> list[Rule]:
    """Of the deformable form of DN-DETR."""
    return [Rule(r"label_enc\.(.*)", r"base.label_embed.\1"), *rules_deformable(state)]
