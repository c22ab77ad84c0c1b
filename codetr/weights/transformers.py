"""Weights of Hugging Face transformers models into ours."""

from __future__ import annotations

from typing import Any

from torch import nn

from codetr.errors import UserError
from codetr.models.build import ModelSpec, build
from codetr.models.collaborative import Collaborative
from codetr.weights.conversion import Rule, check_against, convert_state


def from_transformers(model: nn.Module) -> Collaborative:
    """A detector of ours (no heads) with the configuration and a copy of the weights of a transformers model.

    model: `DeformableDetrForObjectDetection` in any of its forms, with a timm ResNet backbone. Shared prediction heads
    come out shared where the architecture shares them. The result is in evaluation mode.

    Raises: UserError for another kind of model or backbone.
    """
    config: Any = model.config
    if config.model_type != "deformable_detr":
        raise UserError(f"from_transformers reads deformable_detr models, got {config.model_type!r}")
    detector = build(_spec(config), num_classes=config.num_labels, pretrained=False)
    conversion = convert_state(model.state_dict(), _rules(config))
    state = check_against(conversion, detector.state_dict()).state
    detector.load_state_dict(state)
    return detector.eval()


def _spec(config: Any) -> ModelSpec:
    backbone = config.backbone_config
    if backbone is None or backbone.model_type != "timm_backbone" or not backbone.backbone.startswith("resnet"):
        name = None if backbone is None else backbone.model_type
        raise UserError(f"from_transformers reads timm ResNet backbones (use_timm_backbone=True), got {name!r}")
    if config.position_embedding_type != "sine" or config.encoder_n_points != config.decoder_n_points:
        raise UserError("from_transformers reads sine position embeddings and equal points in encoder and decoder")
    if config.encoder_attention_heads != config.decoder_attention_heads or (
        config.encoder_ffn_dim != config.decoder_ffn_dim
    ):
        raise UserError("from_transformers reads models with equal heads and widths in encoder and decoder")
    # One level is C5 alone, whatever the backbone's own list says.
    stages = (2, 3, 4) if config.num_feature_levels > 1 else (4,)
    return ModelSpec.model_validate(
        {
            "base": {
                "name": "deformable_detr",
                "num_queries": config.num_queries,
                "encoder_layers": config.encoder_layers,
                "decoder_layers": config.decoder_layers,
                "num_heads": config.encoder_attention_heads,
                "num_points": config.encoder_n_points,
                "ffn_dim": config.encoder_ffn_dim,
                "dropout": config.dropout,
                "box_refine": config.with_box_refine,
                "two_stage": config.two_stage,
            },
            "backbone": {"name": "resnet", "model": backbone.backbone, "stages": stages, "pretrained": False},
            "neck": {"name": "channel_mapper", "dim": config.d_model, "num_levels": config.num_feature_levels},
        }
    )


_ATTENTION = "(sampling_offsets|attention_weights|value_proj|output_proj)"


def _rules(config: Any) -> list[Rule]:
    maps = 3 if config.num_feature_levels > 1 else 1
    layers = [
        Rule(rf"model\.encoder\.(layers\.\d+)\.self_attn\.({_ATTENTION}\..*)", r"base.encoder.\1.self_attention.\2"),
        Rule(r"model\.encoder\.(layers\.\d+)\.self_attn_layer_norm\.(.*)", r"base.encoder.\1.self_attention.norm.\2"),
        Rule(
            rf"model\.decoder\.(layers\.\d+)\.encoder_attn\.({_ATTENTION}\..*)", r"base.decoder.\1.cross_attention.\2"
        ),
        Rule(
            r"model\.decoder\.(layers\.\d+)\.encoder_attn_layer_norm\.(.*)", r"base.decoder.\1.cross_attention.norm.\2"
        ),
        Rule(r"model\.decoder\.(layers\.\d+)\.self_attn\.o_proj\.(.*)", r"base.decoder.\1.self_attention.out_proj.\2"),
        Rule(r"model\.decoder\.(layers\.\d+)\.self_attn_layer_norm\.(.*)", r"base.decoder.\1.self_attention.norm.\2"),
        Rule(r"model\.(encoder|decoder)\.(layers\.\d+)\.mlp\.fc([12])\.(.*)", r"base.\1.\2.ffn.linear\3.\4"),
        Rule(r"model\.(encoder|decoder)\.(layers\.\d+)\.final_layer_norm\.(.*)", r"base.\1.\2.ffn.norm.\3"),
    ]
    for part, letter in enumerate("qkv"):
        pattern = rf"model\.decoder\.(layers\.\d+)\.self_attn\.{letter}_proj\.(.*)"
        layers.append(Rule(pattern, r"base.decoder.\1.self_attention.in_proj.\2", "stack", part))
    entry = [
        Rule(r"model\.backbone\..*num_batches_tracked", "bookkeeping of batch norm", "drop"),
        Rule(r"model\.backbone\.(?:conv_encoder\.)?(?:model\.|_backbone\.)*(.*)", r"base.backbone.net.\1"),
        Rule(rf"model\.input_proj\.([0-{maps - 1}])\.(.*)", r"base.neck.projections.\1.\2"),
        *(
            Rule(rf"model\.input_proj\.{maps + extra}\.(.*)", rf"base.neck.extra.{extra}.\1")
            for extra in range(config.num_feature_levels - maps)
        ),
        Rule(r"model\.level_embed", "base.encoder.level_embed"),
    ]
    return [*entry, *layers, *_query_rules(config)]


def _query_rules(config: Any) -> list[Rule]:
    """Where queries come from and what is predicted from them. Theirs: (pos, content) halves; ours: (content, pos)."""
    rules = [
        Rule(r"model\.query_position_embeddings\.weight", "base.query_embed.weight", "swap_columns"),
        Rule(r"model\.reference_points\.(.*)", r"base.reference_points.\1"),
        Rule(r"model\.enc_output\.(.*)", r"base.proposals.project.\1"),
        Rule(r"model\.enc_output_norm\.(.*)", r"base.proposals.norm.\1"),
        Rule(r"model\.pos_trans\.(.*)", r"base.proposal_embed.\1", "swap"),
        Rule(r"model\.pos_trans_norm\.(.*)", r"base.proposal_norm.\1", "swap"),
        Rule(r"model\.decoder\.(class_embed|bbox_embed)\..*", "the same tensor stands at the top level", "drop"),
    ]
    if config.two_stage:
        last = config.decoder_layers
        rules += [
            Rule(rf"class_embed\.{last}\.(.*)", r"base.proposals.heads.classes.0.\1"),
            Rule(rf"bbox_embed\.{last}\.(.*)", r"base.proposals.heads.boxes.0.\1"),
        ]
    if not config.with_box_refine:
        rules.append(Rule(r"(class_embed|bbox_embed)\.[1-9].*", "the layers share one prediction head", "drop"))
    return [
        *rules,
        Rule(r"class_embed\.(.*)", r"base.heads.classes.\1"),
        Rule(r"bbox_embed\.(.*)", r"base.heads.boxes.\1"),
    ]
