"""Checkpoints of the authors' Anchor DETR (megvii-research/AnchorDETR, one map) into ours.

Their six prediction heads are one module under six names, and so are the tensors of a file.
"""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from codetr.errors import UserError
from codetr.weights.conversion import Conversion, Rule, convert_state

_CLASS_BIAS = "transformer.class_embed.0.bias"
_PATTERN = "transformer.pattern.weight"
_FIRST_PROJECTION = "transformer.encoder_layers.0.self_attn.in_proj_weight"


def is_anchor_detr(state: Mapping[str, Tensor]) -> bool:
    """Whether the names are those of an Anchor DETR."""
    return _PATTERN in state and _FIRST_PROJECTION in state


def convert_anchor_detr(state: Mapping[str, Tensor]) -> Conversion:
    """Our names for the tensors of an official Anchor DETR state dict, with attention by row and column or dense.

    Raises: UserError if this is not such a state dict.
    """
    if not is_anchor_detr(state):
        raise UserError(f"no {_PATTERN} in the file: not an Anchor DETR checkpoint of the official layout")
    rows, width = state[_FIRST_PROJECTION].shape
    return convert_state(state, anchor_detr_rules(decoupled=rows == 5 * width))


def num_classes_of(state: Mapping[str, Tensor]) -> int:
    """Classes of an official state dict (91, ids of COCO's categories, in those published).

    Raises: UserError if no class head tells.
    """
    if _CLASS_BIAS not in state:
        raise UserError(f"no {_CLASS_BIAS} in the file: it is incomplete")
    return len(state[_CLASS_BIAS])


def anchor_detr_rules(*, decoupled: bool) -> list[Rule]:
    """decoupled: attention to the map by row and column, not dense."""
    transformer = r"transformer\."
    return [
        Rule(r"(.*\.)?total_(ops|params)", "counted by a profiler", "drop"),
        Rule(r"backbone\..*num_batches_tracked", "bookkeeping of batch norm", "drop"),
        Rule(r"backbone\.body\.(.*)", r"base.backbone.net.\1"),
        Rule(r"input_proj\.0\.0\.(.*)", r"base.neck.conv.\1"),
        Rule(r"input_proj\.0\.1\.(.*)", r"base.neck.norm.\1"),
        Rule(rf"{transformer}pattern\.weight", "base.patterns.weight"),
        Rule(rf"{transformer}position\.weight", "base.points.weight"),
        *_position_rules(decoupled),
        *_layer_rules(),
        Rule(rf"{transformer}(class|bbox)_embed\.[1-9]\d*\..*", "the layers share one prediction head", "drop"),
        Rule(rf"{transformer}class_embed\.0\.(.*)", r"base.heads.classes.0.\1"),
        Rule(rf"{transformer}bbox_embed\.0\.(.*)", r"base.heads.boxes.0.\1"),
    ]


def _position_rules(decoupled: bool) -> list[Rule]:
    """Their MLPs are Sequentials with an activation at the middle place."""
    rules = [] if decoupled else [Rule(r"transformer\.adapt_pos1d\..*", "dense attention does not use it", "drop")]
    for theirs, ours in (("adapt_pos2d", "plane"), ("adapt_pos1d", "axis")):
        for place in range(2):
            pattern = rf"transformer\.{theirs}\.{2 * place}\.(.*)"
            rules.append(Rule(pattern, rf"base.position.{ours}.layers.{place}.\1"))
    return rules


def _layer_rules() -> list[Rule]:
    """A norm's number tells when it was made, not when it runs: in a decoder layer, norm2 runs first."""
    layer = r"transformer\.(encoder|decoder)_layers\.(\d+)\."
    ours = r"base.\1.layers.\2."
    rules = [
        Rule(rf"{layer}(self|cross)_attn\.in_proj_(weight|bias)", rf"{ours}\3_attention.in_proj.\4"),
        Rule(rf"{layer}(self|cross)_attn\.out_proj\.(.*)", rf"{ours}\3_attention.out_proj.\4"),
        Rule(rf"{layer}ffn\.norm2\.(.*)", rf"{ours}ffn.norm.\3"),
        Rule(rf"{layer}ffn\.(linear[12]\..*)", rf"{ours}ffn.\3"),
    ]
    norms = (("encoder", 1, "self"), ("decoder", 2, "self"), ("decoder", 1, "cross"))
    for stack, number, attention in norms:
        pattern = rf"transformer\.{stack}_layers\.(\d+)\.norm{number}\.(.*)"
        rules.append(Rule(pattern, rf"base.{stack}.layers.\1.{attention}_attention.norm.\2"))
    return rules
