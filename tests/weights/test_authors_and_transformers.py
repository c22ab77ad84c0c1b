"""A model of transformers, renamed as its authors' repository has it, converts to what `from_transformers` makes of it.

The table of names is the one by which transformers' own files were made from the authors', so both roads to our names
are held to each other.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

import pytest
import torch
from torch import Tensor

from codetr.weights import from_transformers
from codetr.weights.layouts import recognise

transformers = pytest.importorskip("transformers")

Names = Sequence[tuple[str, str]]

# transformers' names to the authors'. Queries, keys and values are one tensor there where all three are the same width.
COMMON: Names = [
    (r"model\.backbone\.model\.(_backbone\.)?", "backbone.0.body."),
    (r"model\.(encoder|decoder)\.layers", r"transformer.\1.layers"),
    (r"mlp\.fc1", "linear1"),
    (r"mlp\.fc2", "linear2"),
    (r"(encoder\.layers\.\d)\.self_attn_layer_norm", r"\1.norm1"),
    (r"(encoder\.layers\.\d)\.final_layer_norm", r"\1.norm2"),
    (r"(decoder\.layers\.\d)\.final_layer_norm", r"\1.norm3"),
    (r"self_attn\.o_proj", "self_attn.out_proj"),
]
SINGLE: Names = [
    *COMMON,
    (r"model\.input_projection", "input_proj"),
    (r"model\.query_position_embeddings", "query_embed"),
    (r"(decoder\.layers\.\d)\.self_attn_layer_norm", r"\1.norm1"),
    (r"(decoder\.layers\.\d)\.encoder_attn_layer_norm", r"\1.norm2"),
    (r"model\.decoder\.layernorm", "transformer.decoder.norm"),
    (r"class_labels_classifier", "class_embed"),
    (r"bbox_predictor", "bbox_embed"),
]
CONDITIONAL: Names = [
    *SINGLE,
    (r"model\.decoder\.(query_scale|ref_point_head)", r"transformer.decoder.\1"),
    (r"encoder_attn\.o_proj", "cross_attn.out_proj"),
    *(
        (rf"(decoder\.layers\.\d)\.{long}\.{theirs}_proj\.", rf"\1.{short}_{authors}_proj.")
        for long, short in (("self_attn", "sa"), ("encoder_attn", "ca"))
        for theirs, authors in (
            ("q_content", "qcontent"),
            ("q_pos_sine", "qpos_sine"),
            ("q_pos", "qpos"),
            ("k_content", "kcontent"),
            ("k_pos", "kpos"),
            ("v", "v"),
        )
    ),
]
DEFORMABLE: Names = [
    *COMMON,
    (r"model\.input_proj", "input_proj"),
    (r"model\.query_position_embeddings", "query_embed"),
    (r"model\.(level_embed|reference_points|enc_output_norm|enc_output|pos_trans_norm|pos_trans)", r"transformer.\1"),
    (r"(decoder\.layers\.\d)\.self_attn_layer_norm", r"\1.norm2"),
    (r"(decoder\.layers\.\d)\.encoder_attn_layer_norm", r"\1.norm1"),
    (r"encoder_attn\.", "cross_attn."),
]
DETR: Names = [*SINGLE, (r"encoder_attn\.o_proj", "multihead_attn.out_proj"), (r"encoder_attn\.", "multihead_attn.")]
TWO_STAGE = {"with_box_refine": True, "two_stage": True}
KINDS: dict[str, tuple[str, Names, dict[str, Any], str]] = {
    "detr": ("Detr", DETR, {}, "DETR by its authors"),
    "conditional": ("ConditionalDetr", CONDITIONAL, {}, "Conditional DETR by its authors"),
    "one-stage": ("DeformableDetr", DEFORMABLE, {}, "Deformable DETR by its authors, one-stage"),
    "two-stage": ("DeformableDetr", DEFORMABLE, TWO_STAGE, "Deformable DETR by its authors, two-stage"),
}


def small(kind: str, settings: Mapping[str, Any]) -> torch.nn.Module:
    single = kind != "DeformableDetr"
    backbone = transformers.TimmBackboneConfig(
        backbone="resnet18",
        out_indices=(4,) if single else (2, 3, 4),
        features_only=True,
        use_pretrained_backbone=False,
    )
    config = getattr(transformers, f"{kind}Config")(
        num_labels=5,
        d_model=32,
        encoder_layers=1,
        decoder_layers=2,
        encoder_attention_heads=2,
        decoder_attention_heads=2,
        encoder_ffn_dim=16,
        decoder_ffn_dim=16,
        num_queries=7,
        backbone_config=backbone,
        **settings,
    )
    model: torch.nn.Module = getattr(transformers, f"{kind}ForObjectDetection")(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return model


def as_authors_have_it(state: Mapping[str, Tensor], names: Names) -> dict[str, Tensor]:
    renamed: dict[str, Tensor] = {}
    parts: dict[str, dict[str, Tensor]] = {}
    for name, tensor in state.items():
        for pattern, replacement in names:
            name = re.sub(pattern, replacement, name)
        found = re.fullmatch(r"(.*\.(?:self_attn|multihead_attn))\.([qkv])_proj\.(weight|bias)", name)
        if found is None:
            renamed[name] = tensor
        else:
            parts.setdefault(f"{found[1]}.in_proj_{found[3]}", {})[found[2]] = tensor
    return renamed | {name: torch.cat([part[key] for key in "qkv"]) for name, part in parts.items()}


@pytest.mark.parametrize("kind", KINDS)
def test_both_roads_end_at_the_same_weights(kind: str) -> None:
    theirs, names, settings, layout_name = KINDS[kind]
    model = small(theirs, settings)
    state = {k: v for k, v in model.state_dict().items() if "num_batches_tracked" not in k}
    # Copies of the prediction heads within the decoder; the authors' files have them as well, and they are dropped.
    state = {k: v for k, v in state.items() if not re.match(r"model\.decoder\.(class|bbox)_embed", k)}
    renamed = as_authors_have_it(state, names)
    assert not [name for name in renamed if name.startswith("model.")]
    layout = recognise(renamed)
    assert layout.name == layout_name
    conversion = layout.convert(renamed)
    assert conversion.count("unmatched") == 0
    expected = {
        name: tensor
        for name, tensor in from_transformers(model).state_dict().items()
        if "num_batches_tracked" not in name
    }
    assert conversion.state.keys() == expected.keys()
    for name, tensor in expected.items():
        assert torch.equal(conversion.state[name], tensor), name
