"""Which layout a file of the deformable family has, and one of each, converted and loaded."""

from __future__ import annotations

import importlib.util
import json
import sys
from pathlib import Path
from types import ModuleType

import pytest
import torch
from torch import Tensor

from codetr.api import build, load_detector
from codetr.data.coco_classes import COCO_CATEGORY_IDS
from codetr.weights.convert import convert_checkpoint
from codetr.weights.layouts import recognise


def beside(name: str) -> ModuleType:
    """A module of this folder."""
    spec = importlib.util.spec_from_file_location(f"weights_{name}", Path(__file__).parent / f"{name}.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


names = beside("test_deformable")
IDS = (1, 3, 4)  # of the three categories, so that classes 0 and 2 of the authors' five are none
SMALL = """\
extends: [{bases}]
base: {base}
backbone: {{model: resnet10t, pretrained: false, frozen_stages: -1, options: {{channels: [8, 8, 8, 8], stem_width: 8}}}}
neck: {{dim: 32, num_groups: 4}}
data: {{resize: {{size: 64, max_size: 64}}}}
"""
SIZE = "num_queries: {queries}, encoder_layers: 1, decoder_layers: 2, num_heads: 2, num_points: 2, ffn_dim: 16"
ONE = "{" + SIZE.format(queries=8) + "}"
HYBRID = "{inner: {name: deformable_detr, " + SIZE.format(queries=12) + "}, one_to_one: 8}"
FILES = {
    "one-stage": ("deformable_r50", ONE, names.DEFORMABLE),
    "two-stage": ("deformable_two_stage_r50", ONE, names.DEFORMABLE),
    "hybrid": ("h_deformable_r50", HYBRID, names.DEFORMABLE),
    "dab": ("dab_deformable_r50", ONE, names.DAB),
    "dino": ("dino_r50", ONE, names.DINO),
    "dino, five levels": ("dino_5scale_r50", ONE, names.DINO),
}


def small(folder: Path, recipe: str, base: str) -> Path:
    file = folder / "small.yaml"
    file.write_text(SMALL.format(bases=recipe, base=base))
    return file


def published(spec: Path, layout: str, *, classes: int) -> dict[str, Tensor]:
    """A file of the authors with random weights."""
    state = build(spec, classes=classes).state_dict()
    generator = torch.Generator().manual_seed(5)
    for name, tensor in state.items():
        tensor.copy_(0.2 * torch.rand(tensor.shape, generator=generator) + ("running_var" in name))
    state = {name.replace("base.inner.", "base."): tensor for name, tensor in state.items()}
    found: dict[str, Tensor] = names.renamed(state, FILES[layout][2], maps=4 if "five" in layout else 3)
    return names.with_aliases(found, copies=2 if layout in ("one-stage", "dino", "dino, five levels") else 1)


@pytest.mark.parametrize("layout", FILES)
def test_a_file_is_recognised_converted_and_loaded(layout: str, tmp_path: Path) -> None:
    recipe, base, _ = FILES[layout]
    spec = small(tmp_path, recipe, base)
    state = published(spec, layout, classes=5)
    assert recognise(state).spec == recipe
    source, output, categories = tmp_path / "a.pth", tmp_path / "a.safetensors", tmp_path / "a.json"
    torch.save({"model": state}, source)
    image = {"id": 1, "file_name": "1.jpg", "width": 8, "height": 8}
    kinds = [{"id": i, "name": f"kind {i}"} for i in IDS]
    categories.write_text(json.dumps({"images": [image], "annotations": [], "categories": kinds}))
    result = convert_checkpoint(source, output, spec=str(spec), annotations=categories)
    assert result.conversion.count("unmatched") == 0
    found = {name.replace("base.inner.", "base."): t for name, t in load_detector(output).model.state_dict().items()}
    assert torch.equal(found["base.heads.classes.0.bias"], state["class_embed.0.bias"][[*IDS]])
    ours = found.get("base.proposals.heads.classes.0.weight")
    if layout in ("two-stage", "hybrid"):
        # Of the proposals' classes only the first is read, which stands for any object.
        assert ours is not None and torch.equal(ours[0], state["class_embed.2.weight"][0])
    elif layout.startswith("dino"):
        assert ours is not None and torch.equal(ours, state["transformer.enc_out_class_embed.weight"][[*IDS]])
        assert torch.equal(found["base.label_embed.weight"], state["label_enc.weight"][[*IDS, 5]])


def test_ninety_one_classes_are_those_of_coco(tmp_path: Path) -> None:
    recipe, base, _ = FILES["dino"]
    spec = small(tmp_path, recipe, base)
    source = tmp_path / "a.pth"
    torch.save({"model": published(spec, "dino", classes=91)}, source)
    result = convert_checkpoint(source, tmp_path / "a.safetensors", spec=str(spec))
    assert result.named and result.meta.category_ids == COCO_CATEGORY_IDS
    assert result.conversion.state["base.label_embed.weight"].shape == (81, 32)


@pytest.mark.parametrize("kind", ["deformable_detr", "deformable_detr_two_stage"])
def test_no_name_of_mmdetection_is_unmatched(shared: Path, kind: str) -> None:
    stored = torch.load(shared / "data" / "oracles" / "detrs.pt", weights_only=True)["models"][kind]["shapes_by_name"]
    state = {name: torch.zeros(shape) for name, shape in stored.items()}
    layout = recognise(state)
    assert layout.name.startswith("Deformable DETR by mmdetection")
    assert ("two_stage" in layout.spec) == ("two_stage" in kind)
    assert layout.num_classes(state) == 7 and layout.convert(state).count("unmatched") == 0
