"""Checkpoints of the authors' Co-Deformable-DETR and Co-DINO (and of mmdetection's layout of them) into ours.

Theirs hold halves of query embeddings as (pos, content), ours as (content, pos). Their embedding of a head is one
scalar, added to the position half of every query of the head (a slip of the published code, which its numbers rest on);
added to the bias of the norm before it, the scalar has the same effect.
"""

from __future__ import annotations

import re
from argparse import Namespace
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from codetr.errors import UserError
from codetr.weights.conversion import Conversion, Rule, convert_state
from codetr.weights.deformable import rules_branches, rules_channel_mapper
from codetr.weights.dino import with_spare_label

_TRANSFORMER = r"query_head\.transformer\."
# Of the denoising queries: the authors', and mmdetection's.
_LABELS = ("query_head.label_embedding.weight", "query_head.dn_generator.label_embedding.weight")
_DEFORMABLE = "(sampling_offsets|attention_weights|value_proj|output_proj)"


def read_official(path: Path) -> dict[str, Tensor]:
    """The state dict of a published checkpoint file, plain tensors only.

    Raises: UserError if the file is missing, is not a checkpoint, or holds more than plain data.
    """
    if not path.is_file():
        raise UserError(f"{path}: {'a folder; name the file in it' if path.is_dir() else 'no such file'}")
    try:
        with torch.serialization.safe_globals(_plain_types()):
            content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        raise UserError(f"{path}: not a checkpoint that can be read: {_reason(error)}") from error
    state = content.get("state_dict", content.get("model", content)) if isinstance(content, dict) else None
    if not isinstance(state, dict) or not all(isinstance(value, Tensor) for value in state.values()):
        raise UserError(f"{path}: found no state_dict of tensors in it")
    # Runs with a moving average keep its copy beside the weights.
    return {name: tensor for name, tensor in state.items() if not name.startswith("ema_")}


def _plain_types() -> list[Any]:
    """What a pickle needs to hold numbers of numpy, as training logs beside the weights do, and the arguments of a
    training script; it builds nothing else."""
    scalar = np.float64(0).__reduce__()[0]
    kinds = {type(np.dtype(kind)) for kind in (np.float32, np.float64, np.int32, np.int64, np.bool_)}
    spelled = [(scalar, f"numpy.{core}.multiarray.scalar") for core in ("core", "_core")]
    return [*spelled, np.dtype, *kinds, Namespace]


def convert_official(state: Mapping[str, Tensor]) -> Conversion:
    """Our names and layouts for the tensors of an official state dict of Co-Deformable-DETR or Co-DINO.

    Raises: UserError if this is not such a state dict.
    """
    if not any(name.startswith("query_head.cls_branches.") for name in state):
        raise UserError(
            "no query_head.cls_branches in the file: no Co-Deformable-DETR or Co-DINO checkpoint of the official layout"
        )
    split = {name: tensor for name, tensor in state.items() if name != "query_head.transformer.head_pos_embed.weight"}
    scalars = state.get("query_head.transformer.head_pos_embed.weight")
    if scalars is not None:
        split |= {f"query_head.transformer.head_pos_embed.weight[{i}]": s for i, s in enumerate(scalars)}
    for name in _LABELS:
        split = with_spare_label(split, name)
    return convert_state(split, _rules(state))


def is_co_dino(names: Iterable[str]) -> bool:
    """Whether an official state dict with these names is one of Co-DINO, else it is one of Co-Deformable-DETR."""
    return "query_head.transformer.query_embed.weight" in names


def num_classes_of(state: Mapping[str, Tensor]) -> int:
    """Classes of an official state dict. Raises: UserError if no class branch tells."""
    for name, tensor in state.items():
        if name.startswith("query_head.cls_branches.") and name.endswith(".bias"):
            return len(tensor)
    raise UserError("no query_head.cls_branches.*.bias in the file: it is incomplete")


def _reason(error: Exception) -> str:
    """Why a file was refused. PyTorch's own words would tell the user to run what is in it."""
    found = re.search(r"GLOBAL (\S+)", str(error))
    if found is None:
        return "it is damaged, was cut short, or is no PyTorch file"
    return (
        f"it holds {found[1]} besides plain tensors, and no code from a file is run. If you trust its source, save its "
        "state_dict alone in a file of its own"
    )


def _rules(state: Mapping[str, Tensor]) -> list[Rule]:
    dino = is_co_dino(state)
    return [
        Rule(r"backbone\..*num_batches_tracked", "bookkeeping of batch norm", "drop"),
        Rule(r"backbone\.(.*)", r"base.backbone.net.\1"),
        *rules_channel_mapper(),
        *_layer_rules(),
        *(_dino_rules() if dino else []),
        *_query_rules(state),
        *_positive_query_rules(_two_stage_head(state), halves=not dino),
        *_head_rules(_two_stage_head(state)),
    ]


def _layer_rules() -> list[Rule]:
    encoder, decoder = rf"{_TRANSFORMER}encoder\.(layers\.\d+)\.", rf"{_TRANSFORMER}decoder\.(layers\.\d+)\."
    stack = rf"{_TRANSFORMER}(encoder|decoder)\.(layers\.\d+)\."
    return [
        Rule(rf"{_TRANSFORMER}level_embeds", "base.encoder.level_embed"),
        Rule(rf"{encoder}attentions\.0\.({_DEFORMABLE}\..*)", r"base.encoder.\1.self_attention.\2"),
        Rule(rf"{encoder}norms\.0\.(.*)", r"base.encoder.\1.self_attention.norm.\2"),
        Rule(rf"{encoder}norms\.1\.(.*)", r"base.encoder.\1.ffn.norm.\2"),
        Rule(rf"{decoder}attentions\.0\.attn\.in_proj_(weight|bias)", r"base.decoder.\1.self_attention.in_proj.\2"),
        Rule(rf"{decoder}attentions\.0\.attn\.out_proj\.(.*)", r"base.decoder.\1.self_attention.out_proj.\2"),
        Rule(rf"{decoder}attentions\.1\.({_DEFORMABLE}\..*)", r"base.decoder.\1.cross_attention.\2"),
        Rule(rf"{decoder}norms\.0\.(.*)", r"base.decoder.\1.self_attention.norm.\2"),
        Rule(rf"{decoder}norms\.1\.(.*)", r"base.decoder.\1.cross_attention.norm.\2"),
        Rule(rf"{decoder}norms\.2\.(.*)", r"base.decoder.\1.ffn.norm.\2"),
        Rule(rf"{stack}ffns\.0\.layers\.0\.0\.(.*)", r"base.\1.\2.ffn.linear1.\3"),
        Rule(rf"{stack}ffns\.0\.layers\.1\.(.*)", r"base.\1.\2.ffn.linear2.\3"),
    ]


def _query_rules(state: Mapping[str, Tensor]) -> list[Rule]:
    return [
        Rule(rf"{_TRANSFORMER}enc_output\.(.*)", r"base.proposals.project.\1"),
        Rule(rf"{_TRANSFORMER}enc_output_norm\.(.*)", r"base.proposals.norm.\1"),
        Rule(rf"{_TRANSFORMER}pos_trans\.(.*)", r"base.proposal_embed.\1", "swap"),
        Rule(rf"{_TRANSFORMER}pos_trans_norm\.(.*)", r"base.proposal_norm.\1", "swap"),
        Rule(r"query_head\.query_embedding\.weight", "base.query_embed.weight"),
        Rule(r"query_head\.downsample\.(.*)", r"adapter.convs.0.\1"),
        *rules_branches(state, "query_head", two_stage=True),
    ]


def _dino_rules() -> list[Rule]:
    """Of Co-DINO alone."""
    decoder = rf"{_TRANSFORMER}decoder\."
    return [
        Rule(rf"{decoder}ref_point_head\.0\.(.*)", r"base.decoder.position.ref_point_head.layers.0.\1"),
        Rule(rf"{decoder}ref_point_head\.2\.(.*)", r"base.decoder.position.ref_point_head.layers.1.\1"),
        Rule(rf"{decoder}norm\.(.*)", r"base.decoder.norm.\1"),
        Rule(rf"{_TRANSFORMER}query_embed\.weight", "base.query_embed.weight"),
        *(Rule(re.escape(name), "base.label_embed.weight") for name in _LABELS),
    ]


def _two_stage_head(names: Iterable[str]) -> str:
    """What we call the first of the authors' two heads; the second is ATSS."""
    return "mask_rcnn" if any(name.startswith("roi_head.0.mask_head.") for name in names) else "faster_rcnn"


def _positive_query_rules(two_stage: str, *, halves: bool) -> list[Rule]:
    """halves: an embedding is a position and a content, theirs in this order, ours in the other."""
    rules = []
    how: Literal["swap", "copy"] = "swap" if halves else "copy"
    for index, name in enumerate((two_stage, "atss")):
        ours = f"positive_queries.{name}"
        rules += [
            Rule(rf"{_TRANSFORMER}aux_pos_trans\.{index}\.(.*)", rf"{ours}.position.\1", how),
            Rule(rf"{_TRANSFORMER}aux_pos_trans_norm\.{index}\.(.*)", rf"{ours}.position_norm.\1", how),
            Rule(rf"{_TRANSFORMER}pos_feats_trans\.{index}\.(.*)", rf"{ours}.feature.\1"),
            Rule(rf"{_TRANSFORMER}pos_feats_norm\.{index}\.(.*)", rf"{ours}.feature_norm.\1"),
            Rule(rf"{_TRANSFORMER}head_pos_embed\.weight\[{index}\]", f"{ours}.position_norm.bias", "shift"),
        ]
    return rules


def _head_rules(two_stage: str) -> list[Rule]:
    roi, atss, mask = r"roi_head\.0\.bbox_head\.", r"bbox_head\.0\.", r"roi_head\.0\.mask_head\."
    ours = f"heads.{two_stage}"
    rules = [
        Rule(r"rpn_head\.rpn_conv\.(.*)", rf"{ours}.rpn.conv.\1"),
        Rule(r"rpn_head\.rpn_cls\.(.*)", rf"{ours}.rpn.objectness.\1"),
        Rule(r"rpn_head\.rpn_reg\.(.*)", rf"{ours}.rpn.deltas.\1"),
        Rule(rf"{roi}shared_fcs\.(.*)", rf"{ours}.roi.fc.\1"),
        Rule(rf"{roi}fc_cls\.(.*)", rf"{ours}.roi.cls.\1"),
        Rule(rf"{roi}fc_reg\.(.*)", rf"{ours}.roi.deltas.\1"),
        Rule(rf"{mask}convs\.(\d+)\.conv\.(.*)", rf"{ours}.mask.convs.\1.\2"),
        Rule(rf"{mask}upsample\.(.*)", rf"{ours}.mask.upsample.\1"),
        Rule(rf"{mask}conv_logits\.(.*)", rf"{ours}.mask.logits.\1"),
        Rule(rf"{atss}scales\.(\d+)\.scale", r"heads.atss.scales.\1", how="vector"),
    ]
    for theirs, ours in (("cls", "cls_tower"), ("reg", "box_tower")):
        rules += [
            Rule(rf"{atss}{theirs}_convs\.(\d+)\.conv\.(.*)", rf"heads.atss.{ours}.\1.conv.\2"),
            Rule(rf"{atss}{theirs}_convs\.(\d+)\.gn\.(.*)", rf"heads.atss.{ours}.\1.norm.\2"),
        ]
    for theirs, ours in (("cls", "cls"), ("reg", "box"), ("centerness", "centerness")):
        rules.append(Rule(rf"{atss}atss_{theirs}\.(.*)", rf"heads.atss.{ours}.\1"))
    return rules
