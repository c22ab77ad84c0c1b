"""Checkpoints of the authors' Co-Deformable-DETR (and of mmdetection's layout, which it shares) into ours.

Theirs hold halves of query embeddings as (pos, content), ours as (content, pos). Their embedding of a head is one
scalar, added to the position half of every query of the head (a slip of the published code, which its numbers rest on);
added to the bias of the norm before it, the scalar has the same effect.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from codetr.errors import UserError
from codetr.weights.conversion import Conversion, Rule, convert_state

_OFFICIAL_HEADS = ("faster_rcnn", "atss")
_TRANSFORMER = r"query_head\.transformer\."
_DEFORMABLE = "(sampling_offsets|attention_weights|value_proj|output_proj)"


def read_official(path: Path) -> dict[str, Tensor]:
    """The state dict of a published checkpoint file, plain tensors only.

    Raises: UserError if the file is missing, is not a checkpoint, or holds more than plain data.
    """
    if not path.is_file():
        raise UserError(f"{path}: {'a folder; name the file in it' if path.is_dir() else 'no such file'}")
    try:
        with torch.serialization.safe_globals(_numpy_scalars()):
            content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        raise UserError(f"{path}: not a checkpoint that can be read: {_reason(error)}") from error
    state = content.get("state_dict", content) if isinstance(content, dict) else None
    if not isinstance(state, dict) or not all(isinstance(value, Tensor) for value in state.values()):
        raise UserError(f"{path}: found no state_dict of tensors in it")
    # Runs with a moving average keep its copy beside the weights.
    return {name: tensor for name, tensor in state.items() if not name.startswith("ema_")}


def _numpy_scalars() -> list[Any]:
    """What a pickle needs to hold numbers of numpy, as training logs beside the weights do; it builds nothing else."""
    scalar = np.float64(0).__reduce__()[0]
    kinds = {type(np.dtype(kind)) for kind in (np.float32, np.float64, np.int32, np.int64, np.bool_)}
    spelled = [(scalar, f"numpy.{core}.multiarray.scalar") for core in ("core", "_core")]
    return [*spelled, np.dtype, *kinds]


def convert_official(state: Mapping[str, Tensor]) -> Conversion:
    """Our names and layouts for the tensors of an official Co-Deformable-DETR state dict.

    Raises: UserError if this is not such a state dict.
    """
    branches = {int(name.split(".")[2]) for name in state if name.startswith("query_head.cls_branches.")}
    if not branches:
        raise UserError(
            "no query_head.cls_branches in the file: not a Co-Deformable-DETR checkpoint of the official layout"
        )
    split = {name: tensor for name, tensor in state.items() if name != "query_head.transformer.head_pos_embed.weight"}
    scalars = state.get("query_head.transformer.head_pos_embed.weight")
    if scalars is not None:
        split |= {f"query_head.transformer.head_pos_embed.weight[{i}]": s for i, s in enumerate(scalars)}
    return convert_state(split, _rules(last_branch=max(branches)))


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


def _rules(*, last_branch: int) -> list[Rule]:
    return [
        Rule(r"backbone\..*num_batches_tracked", "bookkeeping of batch norm", "drop"),
        Rule(r"backbone\.(.*)", r"base.backbone.net.\1"),
        Rule(r"neck\.convs\.(\d+)\.conv\.(.*)", r"base.neck.projections.\1.0.\2"),
        Rule(r"neck\.convs\.(\d+)\.gn\.(.*)", r"base.neck.projections.\1.1.\2"),
        Rule(r"neck\.extra_convs\.(\d+)\.conv\.(.*)", r"base.neck.extra.\1.0.\2"),
        Rule(r"neck\.extra_convs\.(\d+)\.gn\.(.*)", r"base.neck.extra.\1.1.\2"),
        *_layer_rules(),
        *_query_rules(last_branch),
        *_positive_query_rules(),
        *_head_rules(),
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


def _query_rules(last_branch: int) -> list[Rule]:
    rules = [
        Rule(rf"{_TRANSFORMER}enc_output\.(.*)", r"base.proposals.project.\1"),
        Rule(rf"{_TRANSFORMER}enc_output_norm\.(.*)", r"base.proposals.norm.\1"),
        Rule(rf"{_TRANSFORMER}pos_trans\.(.*)", r"base.proposal_embed.\1", "swap"),
        Rule(rf"{_TRANSFORMER}pos_trans_norm\.(.*)", r"base.proposal_norm.\1", "swap"),
        Rule(r"query_head\.query_embedding\.weight", "base.query_embed.weight"),
        Rule(r"query_head\.downsample\.(.*)", r"adapter.convs.0.\1"),
        Rule(rf"query_head\.cls_branches\.{last_branch}\.(.*)", r"base.proposals.heads.classes.0.\1"),
        Rule(r"query_head\.cls_branches\.(.*)", r"base.heads.classes.\1"),
    ]
    # The box branch is a Sequential with activations at the odd places.
    for place in range(3):
        tail = rf"\.{2 * place}\.(.*)"
        rules += [
            Rule(rf"query_head\.reg_branches\.{last_branch}{tail}", rf"base.proposals.heads.boxes.0.layers.{place}.\1"),
            Rule(rf"query_head\.reg_branches\.(\d+){tail}", rf"base.heads.boxes.\1.layers.{place}.\2"),
        ]
    return rules


def _positive_query_rules() -> list[Rule]:
    rules = []
    for index, name in enumerate(_OFFICIAL_HEADS):
        ours = f"positive_queries.{name}"
        rules += [
            Rule(rf"{_TRANSFORMER}aux_pos_trans\.{index}\.(.*)", rf"{ours}.position.\1", "swap"),
            Rule(rf"{_TRANSFORMER}aux_pos_trans_norm\.{index}\.(.*)", rf"{ours}.position_norm.\1", "swap"),
            Rule(rf"{_TRANSFORMER}pos_feats_trans\.{index}\.(.*)", rf"{ours}.feature.\1"),
            Rule(rf"{_TRANSFORMER}pos_feats_norm\.{index}\.(.*)", rf"{ours}.feature_norm.\1"),
            Rule(rf"{_TRANSFORMER}head_pos_embed\.weight\[{index}\]", f"{ours}.position_norm.bias", "shift"),
        ]
    return rules


def _head_rules() -> list[Rule]:
    roi, atss = r"roi_head\.0\.bbox_head\.", r"bbox_head\.0\."
    rules = [
        Rule(r"rpn_head\.rpn_conv\.(.*)", r"heads.faster_rcnn.rpn.conv.\1"),
        Rule(r"rpn_head\.rpn_cls\.(.*)", r"heads.faster_rcnn.rpn.objectness.\1"),
        Rule(r"rpn_head\.rpn_reg\.(.*)", r"heads.faster_rcnn.rpn.deltas.\1"),
        Rule(rf"{roi}shared_fcs\.(.*)", r"heads.faster_rcnn.roi.fc.\1"),
        Rule(rf"{roi}fc_cls\.(.*)", r"heads.faster_rcnn.roi.cls.\1"),
        Rule(rf"{roi}fc_reg\.(.*)", r"heads.faster_rcnn.roi.deltas.\1"),
        Rule(rf"{atss}scales\.(\d+)\.scale", r"heads.atss.scales.\1"),
    ]
    for theirs, ours in (("cls", "cls_tower"), ("reg", "box_tower")):
        rules += [
            Rule(rf"{atss}{theirs}_convs\.(\d+)\.conv\.(.*)", rf"heads.atss.{ours}.\1.conv.\2"),
            Rule(rf"{atss}{theirs}_convs\.(\d+)\.gn\.(.*)", rf"heads.atss.{ours}.\1.norm.\2"),
        ]
    for theirs, ours in (("cls", "cls"), ("reg", "box"), ("centerness", "centerness")):
        rules.append(Rule(rf"{atss}atss_{theirs}\.(.*)", rf"heads.atss.{ours}.\1"))
    return rules
