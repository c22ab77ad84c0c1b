"""Checkpoints of Deformable DETR and of its descendants, as rules for `conversion`.

The authors' repository, and those that grew out of it: H-Deformable-DETR, the deformable form of DAB-DETR, DINO; and
mmdetection. Their decoder layers name the norms in an order of their own: norm2 follows self-attention, norm1
cross-attention. Halves of query embeddings are theirs (pos, content), ours (content, pos).
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from codetr.weights.conversion import Rule

_SAMPLING = "((?:sampling_offsets|attention_weights|value_proj|output_proj)\\..*)"
_LAYER = r"transformer\.(encoder|decoder)\.(layers\.\d+)\."
_ENCODER, _DECODER = r"transformer\.encoder\.(layers\.\d+)\.", r"transformer\.decoder\.(layers\.\d+)\."


def rules_deformable(state: Mapping[str, Tensor]) -> list[Rule]:
    """Of the repositories of Deformable DETR (all its forms), H-Deformable-DETR and DAB-Deformable-DETR."""
    last = _copies(state, "class_embed") - 1 if "transformer.enc_output.weight" in state else None
    return [
        *rules_original_layers(state),
        *_learned_rules(state),
        Rule(r"transformer\.reference_points\.(.*)", r"base.reference_points.\1"),
        Rule(r"refpoint_embed\.(.*)", r"base.anchor_embed.\1"),
        Rule(r"tgt_embed\.(.*)", r"base.query_embed.\1"),
        *rules_original_heads(state, encoder=last),
    ]


def rules_original_layers(state: Mapping[str, Tensor]) -> list[Rule]:
    """Backbone, neck, encoder, decoder and the projection of proposals."""
    return [
        Rule(r"backbone\..*num_batches_tracked", "bookkeeping of batch norm", "drop"),
        Rule(r"backbone\.0\.body\.(.*)", r"base.backbone.net.\1"),
        *_neck_rules(state),
        Rule(r"transformer\.level_embed", "base.encoder.level_embed"),
        Rule(rf"{_ENCODER}self_attn\.{_SAMPLING}", r"base.encoder.\1.self_attention.\2"),
        Rule(rf"{_ENCODER}norm1\.(.*)", r"base.encoder.\1.self_attention.norm.\2"),
        Rule(rf"{_ENCODER}norm2\.(.*)", r"base.encoder.\1.ffn.norm.\2"),
        Rule(rf"{_DECODER}self_attn\.in_proj_(weight|bias)", r"base.decoder.\1.self_attention.in_proj.\2"),
        Rule(rf"{_DECODER}self_attn\.out_proj\.(.*)", r"base.decoder.\1.self_attention.out_proj.\2"),
        Rule(rf"{_DECODER}cross_attn\.{_SAMPLING}", r"base.decoder.\1.cross_attention.\2"),
        Rule(rf"{_DECODER}norm2\.(.*)", r"base.decoder.\1.self_attention.norm.\2"),
        Rule(rf"{_DECODER}norm1\.(.*)", r"base.decoder.\1.cross_attention.norm.\2"),
        Rule(rf"{_DECODER}norm3\.(.*)", r"base.decoder.\1.ffn.norm.\2"),
        Rule(rf"{_LAYER}linear([12])\.(.*)", r"base.\1.\2.ffn.linear\3.\4"),
        Rule(r"transformer\.decoder\.(ref_point_head|query_scale)\.(.*)", r"base.decoder.position.\1.\2"),
        Rule(r"transformer\.enc_output\.(.*)", r"base.proposals.project.\1"),
        Rule(r"transformer\.enc_output_norm\.(.*)", r"base.proposals.norm.\1"),
        Rule(r"transformer\.pos_trans\.(.*)", r"base.proposal_embed.\1", "swap"),
        Rule(r"transformer\.pos_trans_norm\.(.*)", r"base.proposal_norm.\1", "swap"),
    ]


def rules_original_heads(state: Mapping[str, Tensor], *, encoder: int | None) -> list[Rule]:
    """Prediction heads of the decoder's layers; encoder: the number of the pair that stands for the proposals."""
    rules = [Rule(r"transformer\.decoder\.(class|bbox)_embed\..*", "the same tensor stands at the top level", "drop")]
    if encoder is not None:
        rules += [
            Rule(rf"class_embed\.{encoder}\.(.*)", r"base.proposals.heads.classes.0.\1"),
            Rule(rf"bbox_embed\.{encoder}\.(.*)", r"base.proposals.heads.boxes.0.\1"),
        ]
    if _one_pair(state, "class_embed", "bbox_embed", layers=_copies(state, "class_embed") - (encoder is not None)):
        rules.append(Rule(r"(class|bbox)_embed\.[1-9]\d*\..*", "the layers share one prediction head", "drop"))
    return [
        *rules,
        Rule(r"class_embed\.(.*)", r"base.heads.classes.\1"),
        Rule(r"bbox_embed\.(.*)", r"base.heads.boxes.\1"),
    ]


def rules_mmdetection_deformable(state: Mapping[str, Tensor]) -> list[Rule]:
    """Of mmdetection 3: Deformable DETR in all its forms, and DINO."""
    encoder, decoder = r"encoder\.(layers\.\d+)\.", r"decoder\.(layers\.\d+)\."
    both = r"(encoder|decoder)\.(layers\.\d+)\."
    two_stage = "memory_trans_fc.weight" in state
    return [
        Rule(r"backbone\..*num_batches_tracked", "bookkeeping of batch norm", "drop"),
        Rule(r"backbone\.(.*)", r"base.backbone.net.\1"),
        *rules_channel_mapper(),
        Rule(r"level_embed", "base.encoder.level_embed"),
        Rule(rf"{encoder}self_attn\.{_SAMPLING}", r"base.encoder.\1.self_attention.\2"),
        Rule(rf"{encoder}norms\.0\.(.*)", r"base.encoder.\1.self_attention.norm.\2"),
        Rule(rf"{encoder}norms\.1\.(.*)", r"base.encoder.\1.ffn.norm.\2"),
        Rule(rf"{decoder}self_attn\.attn\.in_proj_(weight|bias)", r"base.decoder.\1.self_attention.in_proj.\2"),
        Rule(rf"{decoder}self_attn\.attn\.out_proj\.(.*)", r"base.decoder.\1.self_attention.out_proj.\2"),
        Rule(rf"{decoder}cross_attn\.{_SAMPLING}", r"base.decoder.\1.cross_attention.\2"),
        Rule(rf"{decoder}norms\.0\.(.*)", r"base.decoder.\1.self_attention.norm.\2"),
        Rule(rf"{decoder}norms\.1\.(.*)", r"base.decoder.\1.cross_attention.norm.\2"),
        Rule(rf"{decoder}norms\.2\.(.*)", r"base.decoder.\1.ffn.norm.\2"),
        Rule(rf"{both}ffn\.layers\.0\.0\.(.*)", r"base.\1.\2.ffn.linear1.\3"),
        Rule(rf"{both}ffn\.layers\.1\.(.*)", r"base.\1.\2.ffn.linear2.\3"),
        Rule(r"decoder\.ref_point_head\.(.*)", r"base.decoder.position.ref_point_head.\1"),
        Rule(r"decoder\.norm\.(.*)", r"base.decoder.norm.\1"),
        Rule(r"memory_trans_fc\.(.*)", r"base.proposals.project.\1"),
        Rule(r"memory_trans_norm\.(.*)", r"base.proposals.norm.\1"),
        Rule(r"pos_trans_fc\.(.*)", r"base.proposal_embed.\1", "swap"),
        Rule(r"pos_trans_norm\.(.*)", r"base.proposal_norm.\1", "swap"),
        *_learned_rules(state, name="query_embedding"),
        Rule(r"reference_points_fc\.(.*)", r"base.reference_points.\1"),
        Rule(r"dn_query_generator\.label_embedding\.(.*)", r"base.label_embed.\1"),
        *rules_branches(state, "bbox_head", two_stage=two_stage),
    ]


def rules_channel_mapper() -> list[Rule]:
    """The neck, as mmdetection and Co-DETR name it."""
    return [
        Rule(r"neck\.convs\.(\d+)\.conv\.(.*)", r"base.neck.projections.\1.0.\2"),
        Rule(r"neck\.convs\.(\d+)\.gn\.(.*)", r"base.neck.projections.\1.1.\2"),
        Rule(r"neck\.extra_convs\.(\d+)\.conv\.(.*)", r"base.neck.extra.\1.0.\2"),
        Rule(r"neck\.extra_convs\.(\d+)\.gn\.(.*)", r"base.neck.extra.\1.1.\2"),
    ]


def rules_branches(state: Mapping[str, Tensor], prefix: str, *, two_stage: bool) -> list[Rule]:
    """Prediction heads, as mmdetection and Co-DETR name them: the last of them is that of the proposals."""
    count = _copies(state, f"{prefix}.cls_branches")
    head = prefix.replace(".", r"\.")
    rules = []
    if two_stage:
        rules.append(Rule(rf"{head}\.cls_branches\.{count - 1}\.(.*)", r"base.proposals.heads.classes.0.\1"))
    elif _one_pair(state, f"{prefix}.cls_branches", f"{prefix}.reg_branches", layers=count):
        reason = "the layers share one prediction head"
        rules.append(Rule(rf"{head}\.(cls|reg)_branches\.[1-9]\d*\..*", reason, "drop"))
    rules.append(Rule(rf"{head}\.cls_branches\.(.*)", r"base.heads.classes.\1"))
    # The box branch is a Sequential with activations at the odd places.
    for place in range(3):
        tail = rf"\.{2 * place}\.(.*)"
        if two_stage:
            last = rf"{head}\.reg_branches\.{count - 1}{tail}"
            rules.append(Rule(last, rf"base.proposals.heads.boxes.0.layers.{place}.\1"))
        rules.append(Rule(rf"{head}\.reg_branches\.(\d+){tail}", rf"base.heads.boxes.\1.layers.{place}.\2"))
    return rules


def _neck_rules(state: Mapping[str, Tensor]) -> list[Rule]:
    """Levels after the backbone's own are convolutions over more than a cell."""
    levels = _copies(state, "input_proj")
    maps = sum(state[f"input_proj.{level}.0.weight"].shape[-1] == 1 for level in range(levels))
    rules = [Rule(rf"input_proj\.{level}\.(.*)", rf"base.neck.projections.{level}.\1") for level in range(maps)]
    extra = range(levels - maps)
    return [*rules, *(Rule(rf"input_proj\.{maps + i}\.(.*)", rf"base.neck.extra.{i}.\1") for i in extra)]


def _learned_rules(state: Mapping[str, Tensor], name: str = "query_embed") -> list[Rule]:
    """Learned queries: positions and contents, or contents alone."""
    level = state.get("transformer.level_embed", state.get("level_embed"))
    table = state.get(f"{name}.weight")
    alone = table is None or level is None or table.shape[1] == level.shape[1]
    return [Rule(rf"{name}\.weight", "base.query_embed.weight", "copy" if alone else "swap_columns")]


def _copies(state: Mapping[str, Tensor], name: str) -> int:
    """How many modules of a list there are."""
    start = f"{name}."
    return len({key[len(start) :].split(".")[0] for key in state if key.startswith(start)})


def _one_pair(state: Mapping[str, Tensor], *lists: str, layers: int) -> bool:
    """Whether the modules of the lists are one each, stored `layers` times: separate ones have drifted apart."""
    for name in lists:
        start = f"{name}.0."
        for key in [key for key in state if key.startswith(start)]:
            others = (state[f"{name}.{layer}.{key[len(start) :]}"] for layer in range(1, layers))
            if not all(torch.equal(state[key], other) for other in others):
                return False
    return True
