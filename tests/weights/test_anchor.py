"""The authors' Anchor DETR: what becomes of each name."""

from __future__ import annotations

import re

import pytest
import torch
from torch import Tensor

from codetr.errors import UserError
from codetr.models.build import ModelSpec, build
from codetr.weights.anchor import convert_anchor_detr, num_classes_of
from codetr.weights.conversion import check_against
from codetr.weights.layouts import recognise

CLASSES, LAYERS = 3, 2
KINDS = pytest.mark.parametrize("attention", ["rcda", "dense"])

# Ours to theirs, written down from the published code and independent of the rules under test.
NAMES = [
    ("base.backbone.net.", "backbone.body."),
    ("base.neck.conv.", "input_proj.0.0."),
    ("base.neck.norm.", "input_proj.0.1."),
    ("base.patterns.", "transformer.pattern."),
    ("base.points.", "transformer.position."),
    ("base.position.plane.layers.0.", "transformer.adapt_pos2d.0."),
    ("base.position.plane.layers.1.", "transformer.adapt_pos2d.2."),
    ("base.position.axis.layers.0.", "transformer.adapt_pos1d.0."),
    ("base.position.axis.layers.1.", "transformer.adapt_pos1d.2."),
    ("base.heads.classes.0.", "transformer.class_embed.0."),
    ("base.heads.boxes.0.", "transformer.bbox_embed.0."),
    *(
        (f"base.{stack}.layers.{index}.{ours}.", f"transformer.{stack}_layers.{index}.{theirs}.")
        for stack, norms in (("encoder", {"self": 1}), ("decoder", {"self": 2, "cross": 1}))
        for index in range(LAYERS)
        for ours, theirs in (
            *((f"{kind}_attention.norm", f"norm{number}") for kind, number in norms.items()),
            *((f"{kind}_attention.out_proj", f"{kind}_attn.out_proj") for kind in norms),
            ("ffn.norm", "ffn.norm2"),
            ("ffn.linear1", "ffn.linear1"),
            ("ffn.linear2", "ffn.linear2"),
        )
    ),
]
JOINT = re.compile(r"base\.(encoder|decoder)\.layers\.(\d)\.(self|cross)_attention\.in_proj\.(weight|bias)")


def theirs_of(name: str) -> str:
    found = JOINT.fullmatch(name)
    if found is not None:
        stack, index, kind, which = found.groups()
        return f"transformer.{stack}_layers.{index}.{kind}_attn.in_proj_{which}"
    (pair,) = [pair for pair in NAMES if name.startswith(pair[0])]
    return name.replace(*pair)


def both(attention: str) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """A model's own state, every tensor random, and the same as the authors' file holds it."""
    spec = ModelSpec.model_validate(
        {
            "base": {
                "name": "anchor_detr",
                "num_positions": 5,
                "encoder_layers": LAYERS,
                "decoder_layers": LAYERS,
                "num_heads": 2,
                "ffn_dim": 16,
                "attention": attention,
            },
            "backbone": {
                "name": "resnet",
                "model": "resnet10t",
                "pretrained": False,
                "stages": [4],
                "options": {"channels": (8, 8, 8, 8), "stem_width": 8},
            },
            "neck": {"name": "projection", "dim": 8, "num_groups": 2},
        }
    )
    own = {name: torch.rand(tensor.shape) for name, tensor in build(spec, CLASSES).state_dict().items()}
    state = {theirs_of(name): tensor.clone() for name, tensor in own.items()}
    for name in list(state):
        # One head for all layers, saved under the name of each.
        if ".class_embed.0." in name or ".bbox_embed.0." in name:
            state |= {name.replace("_embed.0.", f"_embed.{i}."): state[name] for i in range(1, LAYERS)}
    if attention == "dense":
        state |= {f"transformer.adapt_pos1d.{i}.weight": torch.rand(8, 8) for i in (0, 2)}
    return own, state


@KINDS
def test_every_tensor_comes_back_under_our_name(attention: str) -> None:
    own, state = both(attention)
    assert len(own) > 80
    result = convert_anchor_detr(state)
    assert result.state.keys() == own.keys()
    for name, tensor in own.items():
        assert torch.equal(result.state[name], tensor), name
    check_against(result, own)
    dropped = [entry.source for entry in result.entries if entry.outcome == "dropped"]
    aliases = 2 + 6  # of the class head and of the three layers of the box head
    assert len(dropped) == aliases + (2 if attention == "dense" else 0)
    assert result.count("unmatched") == 0
    assert num_classes_of(state) == CLASSES


def test_bookkeeping_is_dropped_and_strays_are_unmatched() -> None:
    _, state = both("rcda")
    bookkeeping = ["total_ops", "transformer.total_params", "backbone.body.bn1.num_batches_tracked"]
    strays = [
        "transformer.level_embed.weight",
        "transformer.encoder_layers_level.0.norm1.weight",
        "input_proj.1.0.bias",
    ]
    more = {name: torch.ones(1) for name in [*bookkeeping, *strays]}
    entries = {entry.source: entry.outcome for entry in convert_anchor_detr(state | more).entries}
    assert {entries[name] for name in bookkeeping} == {"dropped"}
    assert {entries[name] for name in strays} == {"unmatched"}


@KINDS
def test_a_file_is_recognised(attention: str) -> None:
    layout = recognise(both(attention)[1])
    assert (layout.name, layout.spec) == ("Anchor DETR by its authors", "anchor_detr_r50")
    assert layout.num_classes(both(attention)[1]) == CLASSES


def test_another_state_dict_is_refused() -> None:
    with pytest.raises(UserError, match=r"no transformer\.pattern\.weight in the file: not an Anchor DETR"):
        convert_anchor_detr({"layer.weight": torch.ones(1)})
    with pytest.raises(UserError, match="it is incomplete"):
        num_classes_of({"layer.weight": torch.ones(1)})
