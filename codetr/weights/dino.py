"""Checkpoints of the DINO repository, as rules for `conversion`, and what those of DINO in mmdetection need besides."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from codetr.weights.conversion import Rule
from codetr.weights.deformable import rules_original_heads, rules_original_layers


def rules_dino(state: Mapping[str, Tensor]) -> list[Rule]:
    """Of the repository of DINO, with four levels or five."""
    return [
        Rule(r"transformer\.decoder\.norm\.(.*)", r"base.decoder.norm.\1"),
        Rule(r"transformer\.tgt_embed\.(.*)", r"base.query_embed.\1"),
        Rule(r"transformer\.enc_out_class_embed\.(.*)", r"base.proposals.heads.classes.0.\1"),
        Rule(r"transformer\.enc_out_bbox_embed\.(.*)", r"base.proposals.heads.boxes.0.\1"),
        Rule(r"label_enc\.(.*)", r"base.label_embed.\1"),
        *rules_original_layers(state),
        *rules_original_heads(state, encoder=None),
    ]


def with_spare_label(state: Mapping[str, Tensor], name: str) -> dict[str, Tensor]:
    """The state with a row of zeros after the classes of the label embedding `name`, where it is there.

    Ours has that row, as DINO's own code; Co-DINO's and mmdetection's tables have none. Nothing reads it.
    """
    found = dict(state)
    if name in found:
        found[name] = torch.cat([found[name], found[name].new_zeros(1, found[name].shape[1])])
    return found
