"""What every kind of model gives, and what the kinds share."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from codetr.errors import UserError
from codetr.weights.conversion import Rule


@dataclass(frozen=True)
class Family:
    """model: the part of a spec that builds ours, from the configuration of theirs. rules: how tensors are named."""

    model: Callable[[Any], dict[str, Any]]
    rules: Callable[[Any], list[Rule]]


def timm_resnet(config: Any, *, stages: Sequence[int] | None = None) -> dict[str, Any]:
    """Our backbone's settings. stages: default those that their backbone gives.

    Raises: UserError for another backbone, or for positions or attention of a form that ours does not have.
    """
    backbone = config.backbone_config
    if backbone is None or backbone.model_type != "timm_backbone" or not backbone.backbone.startswith("resnet"):
        name = None if backbone is None else backbone.model_type
        raise UserError(f"from_transformers reads timm ResNet backbones (use_timm_backbone=True), got {name!r}")
    if getattr(config, "position_embedding_type", "sine") != "sine":
        raise UserError(f"from_transformers reads sine position embeddings, got {config.position_embedding_type!r}")
    if config.encoder_attention_heads != config.decoder_attention_heads or (
        config.encoder_ffn_dim != config.decoder_ffn_dim
    ):
        raise UserError("from_transformers reads models with equal heads and widths in encoder and decoder")
    taken = backbone.out_indices if stages is None else stages
    settings = {"name": "resnet", "model": backbone.backbone, "stages": tuple(taken), "pretrained": False}
    if backbone.output_stride is not None:  # config.dilation is a wish, and stands here if it was granted
        settings["options"] = {"output_stride": backbone.output_stride}
    return settings


def stack_sizes(config: Any) -> dict[str, Any]:
    """The base's settings that all kinds have."""
    return {
        "num_queries": config.num_queries,
        "encoder_layers": config.encoder_layers,
        "decoder_layers": config.decoder_layers,
        "num_heads": config.encoder_attention_heads,
        "ffn_dim": config.encoder_ffn_dim,
        "dropout": config.dropout,
    }


def backbone_rules() -> list[Rule]:
    return [
        Rule(r"model\.backbone\..*num_batches_tracked", "bookkeeping of batch norm", "drop"),
        Rule(r"model\.backbone\.(?:conv_encoder\.)?(?:model\.|_backbone\.)*(.*)", r"base.backbone.net.\1"),
    ]


def feed_forward_rules() -> list[Rule]:
    layer = r"model\.(encoder|decoder)\.(layers\.\d+)\."
    return [
        Rule(rf"{layer}mlp\.fc([12])\.(.*)", r"base.\1.\2.ffn.linear\3.\4"),
        Rule(rf"{layer}final_layer_norm\.(.*)", r"base.\1.\2.ffn.norm.\3"),
    ]


def fused_rules(stack: str, theirs: str, ours: str) -> list[Rule]:
    """Attention whose three input projections are one of ours. stack: encoder or decoder."""
    layer, target = rf"model\.{stack}\.(layers\.\d+)\.{theirs}", rf"base.{stack}.\1.{ours}"
    return [
        *(Rule(rf"{layer}\.{x}_proj\.(.*)", rf"{target}.in_proj.\2", "stack", i) for i, x in enumerate("qkv")),
        Rule(rf"{layer}\.o_proj\.(.*)", rf"{target}.out_proj.\2"),
        Rule(rf"{layer}_layer_norm\.(.*)", rf"{target}.norm.\2"),
    ]


def dense_rules() -> list[Rule]:
    """Backbone, projection, encoder and prediction heads of the single-scale kinds."""
    return [
        *backbone_rules(),
        *feed_forward_rules(),
        *fused_rules("encoder", "self_attn", "self_attention"),
        Rule(r"model\.input_projection\.(.*)", r"base.neck.conv.\1"),
        Rule(r"model\.query_position_embeddings\.(.*)", r"base.query_embed.\1"),
        Rule(r"model\.decoder\.layernorm\.(.*)", r"base.decoder.norm.\1"),
        Rule(r"class_labels_classifier\.(.*)", r"base.heads.classes.0.\1"),
        Rule(r"bbox_predictor\.(.*)", r"base.heads.boxes.0.\1"),
    ]


def dense_model(config: Any, *, base: str, classification: str) -> dict[str, Any]:
    """A model of the single-scale kinds: a spec without heads."""
    return {
        "base": {"name": base, **stack_sizes(config)},
        "backbone": timm_resnet(config, stages=(4,)),
        "neck": {"name": "projection", "dim": config.d_model},
        "criterion": {"cost": {"kind": classification}},
    }
