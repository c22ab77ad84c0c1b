"""Checkpoints of the authors' Co-DINO, five levels, and of mmdetection's: every tensor comes back under our name."""

from __future__ import annotations

import importlib.util
import re
import sys
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType

import pytest
import torch
from torch import Tensor

from codetr.api import build, load_detector
from codetr.structures import ImageBatch
from codetr.weights.conversion import check_against
from codetr.weights.convert import convert_checkpoint
from codetr.weights.layouts import recognise
from codetr.weights.official import convert_official

SPEC = """\
extends: [co_dino_5scale_r50]
base: {num_queries: 8, encoder_layers: 1, decoder_layers: 2, num_heads: 2, num_points: 2, ffn_dim: 16}
backbone: {model: resnet10t, pretrained: false, frozen_stages: -1, options: {channels: [8, 8, 8, 8], stem_width: 8}}
neck: {dim: 32, num_groups: 4}
heads: {faster_rcnn: {rpn: {channels: 32}, roi: {hidden: 32}}, atss: {}}
data: {resize: {size: 64, max_size: 64}}
"""
CLASSES = 3
LABELS = {"authors": "query_head.label_embedding.weight", "mm": "query_head.dn_generator.label_embedding.weight"}
# Where Co-DINO's names are not Co-Deformable-DETR's, ours to theirs; written down from the published code.
NAMES = [
    (r"base\.decoder\.position\.ref_point_head\.layers\.0\.", "query_head.transformer.decoder.ref_point_head.0."),
    (r"base\.decoder\.position\.ref_point_head\.layers\.1\.", "query_head.transformer.decoder.ref_point_head.2."),
    (r"base\.decoder\.norm\.", "query_head.transformer.decoder.norm."),
    (r"base\.query_embed\.", "query_head.transformer.query_embed."),
]


def fixtures() -> ModuleType:
    """The names of Co-Deformable-DETR."""
    spec = importlib.util.spec_from_file_location("weights_conftest", Path(__file__).parent / "conftest.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def theirs(own: Mapping[str, Tensor], layout: str) -> dict[str, Tensor]:
    """Their tables of labels have a row for each class and no more."""
    state = {}
    for name, tensor in own.items():
        if name == "base.label_embed.weight":
            state[LABELS[layout]] = tensor[:-1].clone()
            continue
        for pattern, replacement in [*NAMES, *fixtures().NAMES]:
            name = re.sub(f"^{pattern}" if pattern[0] in "bhap(" else pattern, replacement, name)
        assert not name.startswith(("base.", "heads.", "adapter.", "positive_queries.")), name
        state[name] = tensor.clone()
    return state


@pytest.fixture(scope="module")
def spec(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("co_dino") / "tiny.yaml"
    file.write_text(SPEC)
    return file


@pytest.fixture(scope="module")
def own(spec: Path) -> dict[str, Tensor]:
    """Every tensor is random, so that none can stand for another."""
    state: dict[str, Tensor] = build(spec, classes=CLASSES).state_dict()
    generator = torch.Generator().manual_seed(5)
    for name, tensor in state.items():
        tensor.copy_(0.2 * torch.rand(tensor.shape, generator=generator) + ("running_var" in name))
    state["base.label_embed.weight"][-1] = 0
    return state


@pytest.mark.parametrize("layout", LABELS)
def test_every_tensor_comes_back_under_our_name(own: dict[str, Tensor], layout: str) -> None:
    state = theirs(own, layout)
    assert "neck.extra_convs.0.conv.weight" in state and "neck.convs.3.gn.bias" in state
    assert "query_head.transformer.aux_pos_trans.1.weight" in state
    assert recognise(state).spec == "co_dino_5scale_r50"
    result = check_against(convert_official(state), own)
    assert result.state.keys() == own.keys()
    assert [name for name in own if not torch.equal(result.state[name], own[name])] == []
    assert result.count("mapped") == len(state)


def test_the_last_branch_is_the_encoders(own: dict[str, Tensor]) -> None:
    state = theirs(own, "authors")
    found = convert_official(state).state
    assert torch.equal(found["base.proposals.heads.classes.0.bias"], state["query_head.cls_branches.2.bias"])
    assert torch.equal(found["base.heads.boxes.1.layers.2.bias"], state["query_head.reg_branches.1.4.bias"])


def test_a_converted_file_loads_and_detects_the_same(spec: Path, own: dict[str, Tensor], tmp_path: Path) -> None:
    source, output = tmp_path / "co_dino.pth", tmp_path / "co_dino.safetensors"
    torch.save({"state_dict": theirs(own, "authors")}, source)
    convert_checkpoint(source, output, spec=str(spec))
    model = build(spec, classes=CLASSES).eval()
    model.load_state_dict(own)
    # Two cells at the coarsest level: its group norm takes no fewer.
    pixels = torch.randn(1, 3, 128, 256)
    images = ImageBatch(pixels, torch.zeros(1, 128, 256, dtype=torch.bool), torch.tensor([[128.0, 256.0]]))
    detector = load_detector(output, device="cpu")
    assert detector.model.adapter is not None and detector.model.adapter.strides == (4, 8, 16, 32, 64, 128)
    with torch.no_grad():
        for branch in ("detr", "atss", "faster_rcnn"):
            (ours,), (expected,) = (m.predict(images, branch=branch) for m in (detector.model, model))
            assert len(ours.scores) > 0, branch
            # The same weights and the same operations.
            torch.testing.assert_close(ours.boxes, expected.boxes, rtol=0, atol=0)
            torch.testing.assert_close(ours.scores, expected.scores, rtol=0, atol=0)


def test_labels_are_dropped_where_the_spec_has_no_denoising(spec: Path, own: dict[str, Tensor], tmp_path: Path) -> None:
    source, output = tmp_path / "co_dino.pth", tmp_path / "co_dino.safetensors"
    torch.save({"state_dict": theirs(own, "authors")}, source)
    result = convert_checkpoint(source, output, spec=str(spec), overrides=["base.denoising=null", "heads={}"])
    dropped = {entry.source for entry in result.conversion.entries if entry.outcome == "dropped"}
    assert LABELS["authors"] in dropped
    assert not hasattr(load_detector(output, device="cpu").model.base, "label_embed")
