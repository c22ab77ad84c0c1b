"""Which layout a file has, and files of DETR and Conditional DETR in the layouts of their authors and mmdetection."""

from __future__ import annotations

import json
import re
from argparse import Namespace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from codetr.api import build, load_detector
from codetr.data.coco_classes import COCO_CATEGORY_IDS, COCO_CLASSES
from codetr.errors import UserError
from codetr.models.collaborative import Collaborative
from codetr.structures import ImageBatch
from codetr.weights.convert import convert_checkpoint
from codetr.weights.layouts import LAYOUTS, recognise

SPEC = """\
extends: [bases/{base}, backbones/resnet50]
base: {{num_queries: 6, encoder_layers: 1, decoder_layers: 2, num_heads: 2, ffn_dim: 16}}
backbone: {{model: resnet10t, pretrained: false, frozen_stages: -1, options: {{channels: [8, 8, 8, 8], stem_width: 8}}}}
neck: {{dim: 32}}
data: {{resize: {{size: 64, max_size: 64}}}}
"""
SMALL = [
    "base.num_queries=6",
    "base.encoder_layers=1",
    "base.decoder_layers=2",
    "base.num_heads=2",
    "base.ffn_dim=16",
    "backbone.model=resnet10t",
    "backbone.options={channels: [8, 8, 8, 8], stem_width: 8}",
    "neck.dim=32",
]
IDS = (1, 3, 4)  # of the three categories, so that classes 0 and 2 of the authors' five are none

# Ours to theirs, written down from the published code and independent of the rules under test.
AUTHORS = {
    "both": [
        (r"base\.backbone\.net\.", "backbone.0.body."),
        (r"base\.neck\.conv\.", "input_proj."),
        (r"base\.query_embed\.", "query_embed."),
        (r"base\.heads\.classes\.0\.", "class_embed."),
        (r"base\.heads\.boxes\.0\.", "bbox_embed."),
        (r"(base\.encoder\..*)self_attention\.norm\.", r"\1norm1."),
        (r"(base\.encoder\..*)self_attention\.in_proj\.", r"\1self_attn.in_proj_"),
        (r"(base\.encoder\..*)self_attention\.", r"\1self_attn."),
        (r"(base\.encoder\..*)ffn\.norm\.", r"\1norm2."),
        (r"(base\.decoder\..*)self_attention\.norm\.", r"\1norm1."),
        (r"(base\.decoder\..*)cross_attention\.norm\.", r"\1norm2."),
        (r"(base\.decoder\..*)ffn\.norm\.", r"\1norm3."),
        (r"(base\..*)ffn\.linear", r"\1linear"),
    ],
    "detr": [
        (r"(base\.decoder\..*)self_attention\.in_proj\.", r"\1self_attn.in_proj_"),
        (r"(base\.decoder\..*)self_attention\.", r"\1self_attn."),
        (r"(base\.decoder\..*)cross_attention\.in_proj\.", r"\1multihead_attn.in_proj_"),
        (r"(base\.decoder\..*)cross_attention\.", r"\1multihead_attn."),
    ],
    "conditional_detr": [
        (r"base\.ref_point_head\.", "transformer.decoder.ref_point_head."),
        (r"base\.decoder\.spatial_query\.", "base.decoder."),
        (r"(base\.decoder\..*)self_attention\.out_proj\.", r"\1self_attn.out_proj."),
        (r"(base\.decoder\..*)cross_attention\.out_proj\.", r"\1cross_attn.out_proj."),
        (r"(base\.decoder\..*)self_attention\.", r"\1sa_"),
        (r"(base\.decoder\..*)cross_attention\.", r"\1ca_"),
        ("query_content", "qcontent_proj"),
        ("query_pos", "qpos_proj"),
        ("query_sine", "qpos_sine_proj"),
        ("key_content", "kcontent_proj"),
        ("key_pos", "kpos_proj"),
        (r"(\w\w)_value", r"\1_v_proj"),
    ],
    "after": [(r"base\.(encoder|decoder)\.", r"transformer.\1.")],
}
BASES = ("detr", "conditional_detr")


def model_of(base: str, folder: Path, *, classes: int) -> tuple[Collaborative, Path]:
    """A small detector whose tensors are random, so that none can stand for another, and its spec."""
    spec = folder / f"{base}.yaml"
    spec.write_text(SPEC.format(base=base))
    model = build(spec, classes=classes).eval()
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for name, tensor in model.state_dict().items():
            tensor.copy_(0.2 * torch.rand(tensor.shape, generator=generator) + ("running_var" in name))
    return model, spec


def as_authors_name(state: dict[str, Tensor], base: str) -> dict[str, Tensor]:
    renamed = {}
    for name, tensor in state.items():
        for pattern, replacement in [*AUTHORS["both"], *AUTHORS[base], *AUTHORS["after"]]:
            name = re.sub(pattern, replacement, name)
        assert not name.startswith("base."), name
        renamed[name] = tensor
    return renamed


def annotations(folder: Path, ids: tuple[int, ...]) -> Path:
    file = folder / "instances.json"
    image = {"id": 1, "file_name": "1.jpg", "width": 8, "height": 8}
    categories = [{"id": i, "name": f"kind {i}"} for i in ids]
    file.write_text(json.dumps({"images": [image], "annotations": [], "categories": categories}))
    return file


@pytest.mark.parametrize("base", BASES)
def test_a_file_of_the_authors_detects_the_same(base: str, tmp_path: Path) -> None:
    model, spec = model_of(base, tmp_path, classes=5)
    state = as_authors_name(model.state_dict(), base)
    assert recognise(state).name.endswith("by its authors")
    file, output = tmp_path / "published.pth", tmp_path / "ours.safetensors"
    torch.save({"model": state, "epoch": 49, "args": Namespace(lr=1e-4)}, file)
    result = convert_checkpoint(file, output, spec=str(spec), annotations=annotations(tmp_path, IDS))
    assert result.conversion.count("mapped") == len(state) == len(result.conversion.entries)
    details = {entry.source: entry.detail for entry in result.conversion.entries}
    assert details["class_embed.bias"] == "base.heads.classes.0.bias, rows of 3 categories"
    detector = load_detector(output, device="cpu")
    assert (detector.classes, detector.category_ids) == (("kind 1", "kind 3", "kind 4"), IDS)
    images = ImageBatch(
        torch.randn(1, 3, 64, 96), torch.zeros(1, 64, 96, dtype=torch.bool), torch.tensor([[64.0, 96.0]])
    )
    with torch.no_grad():
        ours, theirs = (m.base.encode(images) for m in (detector.model, model))
        ours = detector.model.base.decode(ours, detector.model.base.propose(ours, None).groups)
        theirs = model.base.decode(theirs, model.base.propose(theirs, None).groups)
    # The same weights and the same operations; a smaller product of matrices may add in another order.
    rows = [*IDS, 5] if base == "detr" else [*IDS]
    torch.testing.assert_close(ours.logits, theirs.logits[..., rows], rtol=0, atol=1e-6)
    torch.testing.assert_close(ours.boxes, theirs.boxes, rtol=0, atol=0)


def test_a_category_beyond_the_classes(tmp_path: Path) -> None:
    model, spec = model_of("conditional_detr", tmp_path, classes=5)
    file = tmp_path / "published.pth"
    torch.save({"model": as_authors_name(model.state_dict(), "conditional_detr")}, file)
    with pytest.raises(UserError, match="has a category of id 5, the weights have classes 0 to 4; name the file"):
        convert_checkpoint(file, tmp_path / "o.safetensors", spec=str(spec), annotations=annotations(tmp_path, (1, 5)))


def test_the_spec_of_the_published_weights_is_the_default_and_91_classes_are_those_of_coco(tmp_path: Path) -> None:
    model, _ = model_of("detr", tmp_path, classes=91)
    file, output = tmp_path / "published.pth", tmp_path / "ours.safetensors"
    torch.save({"model": as_authors_name(model.state_dict(), "detr")}, file)
    result = convert_checkpoint(file, output, overrides=SMALL)
    assert result.named and result.meta.classes == COCO_CLASSES and result.meta.category_ids == COCO_CATEGORY_IDS
    assert result.meta.spec["criterion"]["cost"]["kind"] == "softmax"
    bias = result.conversion.state["base.heads.classes.0.bias"]
    assert torch.equal(bias, model.base.heads.classes[0].bias[[*COCO_CATEGORY_IDS, 91]])


@pytest.mark.parametrize("kind", ["detr", "conditional_detr"])
def test_no_name_of_mmdetection_is_unmatched(shared: Path, kind: str) -> None:
    stored = torch.load(shared / "data" / "oracles" / "detrs.pt", weights_only=True)["models"][kind]["shapes_by_name"]
    state = {name: torch.zeros(shape) for name, shape in stored.items()}
    layout = recognise(state)
    assert layout.name.endswith("by mmdetection") and layout.spec == f"{kind}_r50"
    assert layout.num_classes(state) == 7
    assert layout.convert(state).count("unmatched") == 0


def test_an_unknown_layout_names_those_that_are_known() -> None:
    with pytest.raises(UserError) as caught:
        recognise({"layer.weight": torch.ones(1), "layer.bias": torch.ones(1)})
    assert str(caught.value).startswith("tensors named such as layer.weight, layer.bias are of no known layout; known")
    assert all(layout.name in str(caught.value) for layout in LAYOUTS)


def test_a_file_without_a_class_head_is_incomplete() -> None:
    names = ["transformer.decoder.layers.0.multihead_attn.in_proj_weight", "query_embed.weight"]
    state = dict.fromkeys(names, torch.ones(1))
    with pytest.raises(UserError, match=r"no class_embed\.bias in the file"):
        recognise(state).num_classes(state)
