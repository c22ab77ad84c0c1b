"""Parameters, operations and what only training has, of models on the meta device."""

from __future__ import annotations

import functools

import pytest

from codetr.model_summary import ModelSummary, Part, summarise
from codetr.spec import load_spec
from codetr.zoo_tables import model_note


def summary(spec: str, *overrides: str, num_classes: int = 91) -> ModelSummary:
    return _summary(spec, overrides, num_classes)


def top(found: ModelSummary) -> dict[str, Part]:
    return {part.name: part for part in found.parts if part.depth == 0}


@functools.cache
def _summary(spec: str, overrides: tuple[str, ...], num_classes: int) -> ModelSummary:
    return summarise(load_spec(spec, overrides), num_classes=num_classes)


@pytest.mark.parametrize(
    ("spec", "published"),
    [
        ("detr_r50", 96.9),
        ("dab_detr_r50", 102.6),
        ("deformable_r50", 195.1),
        ("deformable_pp_r50", 267.9),
        ("dino_r50", 276.6),
    ],
)
def test_multiply_adds_are_those_of_the_authors_code(spec: str, published: float) -> None:
    """In 10^9, measured on the authors' models by counting matrix products and convolutions: the samples of deformable
    attention, a custom operator there, are not in these figures."""
    found = summary(spec)
    assert (found.total.flops - found.sampling) / 2e9 == pytest.approx(published, rel=0.01)
    assert (found.sampling > 0) == (spec not in ("detr_r50", "dab_detr_r50"))
    parts = top(found)
    assert sum(part.flops for part in parts.values()) == found.total.flops
    assert sum(part.parameters for part in parts.values()) == found.total.parameters
    # 41.7 x 10^9 multiply-adds: twice the 4.09 x 10^9 for 224 x 224, times the area, without the classifier.
    assert parts["backbone"].flops / 2 == pytest.approx(4.087e9 * 800 * 1280 / 224**2, rel=0.01)


def test_samples_count_five_multiply_adds_a_channel() -> None:
    found = summary("quickstart", num_classes=4)
    tokens = sum(height * width for height, width in ((100, 160), (50, 80), (25, 40)))
    samples = (tokens + 3 * 60) * 3 * 4 * 96  # one encoder and three decoder layers, 3 levels, 4 points, 96 channels
    assert found.sampling == 2 * 5 * samples
    assert f"({found.sampling / 1e9:.1f} here)" in model_note(found)


def test_a_convolution_and_a_linear_layer_by_hand() -> None:
    found = summary("quickstart", num_classes=4)
    neck, heads = top(found)["neck"], top(found)["heads"]
    pixels = (100 * 160, 50 * 80, 25 * 40)
    assert neck.flops == 2 * 96 * sum(p * c for p, c in zip(pixels, (96, 128, 160), strict=True))
    per_query = 96 * 4 + 96 * 96 * 2 + 96 * 4
    assert heads.flops == 2 * 3 * 60 * per_query


@pytest.mark.parametrize(
    ("spec", "expected"),
    [
        ("deformable_pp_r50", {}),
        ("dino_r50", {"label_embed": 92 * 256}),
        ("dn_detr_r50", {"label_embed": 91 * 255}),  # the last row is what matched queries start from
        ("dn_deformable_r50", {"label_embed": 91 * 255}),  # here it is read as well, and comes to nothing
        ("h_deformable_r50", {"query_embed": 1500 * 256}),
        ("group_conditional_r50", {"sources": 10 * 300 * 256}),
    ],
)
def test_what_inference_does_not_read_is_of_training_alone(spec: str, expected: dict[str, int]) -> None:
    found = summary(spec)
    assert {part.name: part.training_only for part in top(found).values() if part.training_only} == expected
    assert found.total.training_only == sum(expected.values())


def test_heads_adapter_and_positive_queries_are_of_training_alone() -> None:
    bare, whole = summary("deformable_pp_r50"), summary("co_deformable_r50")
    added = {name: part for name, part in top(whole).items() if name not in top(bare)}
    assert list(added) == [
        "adapter", "heads.faster_rcnn", "heads.atss", "positive_queries.faster_rcnn", "positive_queries.atss"
    ]  # fmt: skip
    assert all(part.training_only == part.parameters > 0 and part.flops == 0 for part in added.values())
    assert bare.total.training_only == 0
    assert whole.total.parameters - whole.total.training_only == bare.total.parameters
    assert (whole.total.flops, whole.sampling) == (bare.total.flops, bare.sampling)
    backbone = top(whole)["backbone"]
    assert backbone.parameters - backbone.trained == 222_400  # the stem and the first stage are frozen


def test_layers_of_a_list_are_one_part() -> None:
    parts = summary("detr_r50").parts
    names = [part.name for part in parts]
    layers = parts[names.index("encoder") + 1]
    assert (layers.name, layers.kind, layers.depth) == ("layers", "6 x DenseEncoderLayer", 1)
    inside = parts[names.index("encoder") + 2 : names.index("encoder") + 4]
    assert [(part.name, part.kind, part.depth) for part in inside] == [
        ("self_attention", "6 x DenseAttention", 2), ("ffn", "6 x FeedForward", 2)
    ]  # fmt: skip
    assert layers.flops == sum(part.flops for part in inside) == next(p for p in parts if p.name == "encoder").flops
    assert "backbone" in names and "layer4" in names and "net" not in names
