"""From an authors' checkpoint to a file that loads: weights, spec, class names."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from codetr.api import load_detector
from codetr.data.coco_classes import COCO_CATEGORY_IDS, COCO_CLASSES
from codetr.engine.checkpoint import read_meta, read_weights
from codetr.errors import UserError
from codetr.structures import ImageBatch
from codetr.weights import convert
from codetr.weights.conversion import Conversion
from codetr.weights.convert import Converted, convert_checkpoint


@pytest.fixture
def checkpoint(official: Any, tmp_path: Path) -> Path:
    """As the authors' tools write one, with a moving average beside the weights."""
    average = {f"ema_{name.replace('.', '_')}": torch.zeros_like(t) for name, t in official.state.items()}
    file = tmp_path / "co_detr.pth"
    torch.save({"meta": {"epoch": 12, "CLASSES": ("a",)}, "state_dict": official.state | average}, file)
    return file


def converted(official: Any, source: Path, *overrides: str, annotations: Path | None = None) -> Converted:
    output = source.with_suffix(".safetensors")
    return convert_checkpoint(source, output, spec=str(official.spec), overrides=overrides, annotations=annotations)


def categories(folder: Path, *names: str) -> Path:
    """An annotation file whose categories stand in descending id: 10 n, ..., 20, 10."""
    entries = [{"id": 10 * (index + 1), "name": name} for index, name in enumerate(names)]
    file = folder / "instances.json"
    image = {"id": 1, "file_name": "1.jpg", "width": 8, "height": 8}
    file.write_text(json.dumps({"images": [image], "annotations": [], "categories": entries[::-1]}))
    return file


def test_a_converted_file_loads_and_detects_the_same(official: Any, checkpoint: Path) -> None:
    result = converted(official, checkpoint)
    assert (result.conversion.count("mapped"), result.conversion.count("dropped")) == (len(official.state) + 1, 0)
    file = checkpoint.with_suffix(".safetensors")
    detector = load_detector(file, device="cpu")
    # Two cells at the coarsest level: its group norm takes no fewer.
    pixels = torch.randn(1, 3, 128, 256)
    images = ImageBatch(pixels, torch.zeros(1, 128, 256, dtype=torch.bool), torch.tensor([[128.0, 256.0]]))
    with torch.no_grad():
        for branch in ("detr", "atss", "faster_rcnn"):
            (ours,) = detector.model.predict(images, branch=branch)
            (expected,) = official.model.predict(images, branch=branch)
            assert len(ours.scores) > 0, branch
            # The same weights and the same operations.
            torch.testing.assert_close(ours.boxes, expected.boxes, rtol=0, atol=0)
            torch.testing.assert_close(ours.scores, expected.scores, rtol=0, atol=0)


def test_class_names_are_numbers_if_nothing_names_them(official: Any, checkpoint: Path) -> None:
    result = converted(official, checkpoint)
    assert not result.named
    meta = read_meta(checkpoint.with_suffix(".safetensors"))
    assert meta == result.meta
    assert (meta.classes, meta.category_ids) == (("class 1", "class 2", "class 3"), (1, 2, 3))
    assert meta.spec["base"]["num_queries"] == 8


def test_class_names_come_from_an_annotation_file_in_ascending_id(
    official: Any, checkpoint: Path, tmp_path: Path
) -> None:
    result = converted(official, checkpoint, annotations=categories(tmp_path, "cat", "dog", "cow"))
    assert result.named
    detector = load_detector(checkpoint.with_suffix(".safetensors"), device="cpu")
    assert (detector.classes, detector.category_ids) == (("cat", "dog", "cow"), (10, 20, 30))


def test_an_annotation_file_of_another_number_of_classes(official: Any, checkpoint: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="has 2 categories, the weights 3 classes; name the file of the data set"):
        converted(official, checkpoint, annotations=categories(tmp_path, "cat", "dog"))
    assert not checkpoint.with_suffix(".safetensors").exists()


def test_eighty_classes_are_those_of_coco() -> None:
    assert convert._classes(80, None) == convert._Classes(COCO_CLASSES, COCO_CATEGORY_IDS, True)
    assert (len(COCO_CLASSES), COCO_CLASSES[0], COCO_CATEGORY_IDS[-1]) == (80, "person", 90)


def test_a_spec_without_heads_drops_what_serves_them(official: Any, checkpoint: Path) -> None:
    result = converted(official, checkpoint, "heads={}")
    dropped = {entry.source.split(".")[0] for entry in result.conversion.entries if entry.outcome == "dropped"}
    assert dropped == {"rpn_head", "roi_head", "bbox_head", "query_head"}
    file = checkpoint.with_suffix(".safetensors")
    assert all(name.startswith("base.") for name in read_weights(file))
    assert len(load_detector(file, device="cpu").model.heads) == 0


@pytest.mark.parametrize("lost", ["bbox_head.", "bbox_head.0.atss_cls.", "query_head.downsample.0."])
def test_a_file_that_lacks_a_part_of_the_heads_is_refused(official: Any, tmp_path: Path, lost: str) -> None:
    """It could not be loaded: either all of the heads are there, or none is asked for."""
    state = {name: tensor for name, tensor in official.state.items() if not name.startswith(lost)}
    source = tmp_path / "part.pth"
    torch.save({"state_dict": state}, source)
    with pytest.raises(
        UserError, match=r"part\.pth lacks .* that serve training only, such as .*; leave the heads out"
    ):
        converted(official, source)
    assert not source.with_suffix(".safetensors").exists()
    converted(official, source, "heads={}")
    load_detector(source.with_suffix(".safetensors"), device="cpu")


@pytest.mark.parametrize(
    ("override", "line"),
    [
        (
            "base.ffn_dim=24",
            "base.encoder.layers.0.ffn.linear1.weight: (16, 32) in the file, (24, 32) in the model",
        ),
        ("base.encoder_layers=2", "base.encoder.layers.1.ffn.linear1.weight: not in the file"),
        (
            "base.decoder_layers=1",
            "query_head.transformer.decoder.layers.1.norms.0.bias: the spec's model has no "
            "base.decoder.layers.1.self_attention.norm.bias",
        ),
        ("neck.bias=true", "base.neck.projections.0.0.bias: not in the file"),
    ],
)
def test_a_wrong_spec_lists_the_tensors(official: Any, checkpoint: Path, override: str, line: str) -> None:
    with pytest.raises(UserError) as caught:
        converted(official, checkpoint, override)
    message = str(caught.value)
    assert f"\n  {line}\n" in message
    assert "tensors do not fit the spec:" in message and "Name the spec that the weights belong to" in message
    assert not checkpoint.with_suffix(".safetensors").exists()


def test_ninety_one_classes_by_category_id_are_those_of_coco_that_exist() -> None:
    classes = convert._by_category_id(91, None)
    assert (classes.names, classes.ids, classes.rows, classes.named) == (
        COCO_CLASSES,
        COCO_CATEGORY_IDS,
        COCO_CATEGORY_IDS,
        True,
    )


def test_class_numbers_by_category_id_start_at_zero() -> None:
    assert convert._by_category_id(2, None) == convert._Classes(("class 0", "class 1"), (0, 1), False)


def test_rows_of_categories_and_of_no_object() -> None:
    tensor = torch.arange(6.0)
    state = {"base.heads.classes.0.bias": tensor, "base.neck.conv.bias": tensor}
    picked = convert._with_rows(Conversion(state, []), (1, 4), 5).state
    assert picked["base.heads.classes.0.bias"].tolist() == [1, 4, 5]
    assert picked["base.neck.conv.bias"] is tensor


def test_a_folder_that_is_not_there(official: Any, checkpoint: Path, tmp_path: Path) -> None:
    output = tmp_path / "nowhere" / "out.safetensors"
    with pytest.raises(UserError, match=r"out\.safetensors: there is no folder .*nowhere; make it first"):
        convert_checkpoint(checkpoint, output, spec=str(official.spec))
