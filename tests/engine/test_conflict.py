"""The gradients that the branches send into the encoder, against those that autograd gives for each branch's losses."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

sys.path.append(str(Path(__file__).resolve().parents[1] / "models"))

from small import CONDITIONAL_DETR, DETR, HEADS, PLUS_PLUS, batch, small_model

from codetr.engine.conflict import BranchGradients, norms_and_cosines
from codetr.models.collaborative import Collaborative
from codetr.structures import ImageBatch, Memory, Positives, Pyramid, Targets

BASES = {"deformable": PLUS_PLUS, "detr": DETR, "conditional": CONDITIONAL_DETR}
PAIRS = ["detr.detr", "detr.faster_rcnn", "detr.atss", "faster_rcnn.faster_rcnn", "faster_rcnn.atss", "atss.atss"]

# The models are in float64, in which sums in another order differ by 1e-16 each. Losses are float32 by design, and so
# are their gradients with respect to predictions: the same numbers on both sides, of which only the sums differ.
SAME = 1e-12


class Watch:
    """The least observer."""

    def __init__(self, model: Collaborative) -> None:
        self.gradients = BranchGradients(model.adapter)

    def decoder_reads(self, memory: Memory) -> None:
        self.gradients.watch_decoder(memory)

    def head_reads(self, name: str, pyramid: Pyramid, positives: Positives) -> None:
        self.gradients.watch_head(name, pyramid)


def double(base: str, heads: str = "both", **collaborative: Any) -> Collaborative:
    """Position embeddings are made in float32: linear layers widen what they get."""
    model = small_model(BASES[base], HEADS[heads], **collaborative).double()
    for module in model.modules():
        if isinstance(module, nn.Linear):
            module.register_forward_pre_hook(lambda module, args: tuple(value.double() for value in args))
    return model


def double_batch() -> tuple[ImageBatch, Targets]:
    images, targets = batch()
    return ImageBatch(images.pixels.double(), images.padding, images.sizes), targets


def step(model: Collaborative) -> dict[str, Tensor]:
    """Losses, with the same positives every time."""
    torch.manual_seed(5)
    return model(*double_batch())


def measured(model: Collaborative) -> dict[str, Tensor]:
    watch = Watch(model)
    model.observer = watch
    torch.stack(list(step(model).values())).sum().backward()
    return watch.gradients.products()


def gradient(model: Collaborative, wanted: Callable[[str], bool]) -> Tensor:
    """Of the losses of these names with respect to the encoder's output, (B, S, C)."""
    kept: list[Memory] = []
    encode = model.base.encode

    def keeping(images: ImageBatch) -> Memory:
        kept.append(encode(images))
        return kept[-1]

    model.base.encode = keeping  # type: ignore[method-assign]
    try:
        losses = [loss for name, loss in step(model).items() if wanted(name)]
    finally:
        del model.base.encode
    return torch.autograd.grad(torch.stack(losses).sum(), kept[0].tokens)[0]


def starts(*prefixes: str) -> Callable[[str], bool]:
    return lambda name: name.startswith(tuple(f"{prefix}." for prefix in prefixes))


def assert_products(found: dict[str, Tensor], gradients: dict[str, Tensor]) -> None:
    assert list(found) == PAIRS
    for pair, value in found.items():
        one, other = (gradients[name] for name in pair.split("."))
        scale = one.norm() * other.norm()
        assert scale > 0
        torch.testing.assert_close(value, (one * other).sum(), rtol=0, atol=SAME * scale.item(), msg=pair)


@pytest.mark.parametrize("base", BASES)
def test_every_branch_is_the_gradient_of_its_losses(base: str) -> None:
    """Where positive queries have boxes alone, which are detached, the branches share no loss."""
    model = double(base, use_features=False)
    found = measured(model)
    heads = {name: gradient(model, starts(name)) for name in ("faster_rcnn", "atss")}
    decoder = gradient(model, lambda name: not starts(*heads)(name))
    assert_products(found, {"detr": decoder, **heads})


@pytest.mark.parametrize("base", BASES)
def test_the_feature_of_a_positive_counts_as_its_heads(base: str, monkeypatch: pytest.MonkeyPatch) -> None:
    model = double(base)
    found = measured(model)
    both = {name: gradient(model, starts(name, f"pos.{name}")) for name in ("faster_rcnn", "atss")}
    for queries in model.positive_queries.values():
        embed = queries._embed
        monkeypatch.setattr(queries, "_embed", lambda boxes, features, embed=embed: embed(boxes, features.detach()))
    attended = {name: gradient(model, starts(f"pos.{name}")) for name in both}
    heads = {name: both[name] - attended[name] for name in both}
    assert_products(found, {"detr": gradient(model, lambda name: not starts(*both)(name)), **heads})


def test_the_branches_add_up_to_what_the_encoder_gets() -> None:
    """Of the squared norm of a sum, every pair of two has its product twice."""
    model = double("deformable")
    found = measured(model)
    total = gradient(model, lambda name: True)
    twice = {pair: 1 if len(set(pair.split("."))) == 1 else 2 for pair in found}
    torch.testing.assert_close(
        torch.stack([twice[pair] * value for pair, value in found.items()]).sum(),
        total.square().sum(),
        rtol=SAME,
        atol=0,
    )


def test_without_heads_there_is_one_branch() -> None:
    model = double("deformable", "none")
    found = measured(model)
    assert list(found) == ["detr.detr"]
    expected = gradient(model, lambda name: True).square().sum()
    torch.testing.assert_close(found["detr.detr"], expected, rtol=SAME, atol=0)


def test_a_frozen_encoder_has_nothing_to_measure() -> None:
    model = double("deformable")
    for name, parameter in model.base.named_parameters():
        if not name.startswith(("decoder", "class", "box")):
            parameter.requires_grad_(False)
    memory = model.base.encode(double_batch()[0])
    assert not memory.tokens.requires_grad
    assert measured(model) == {}


def test_a_measurement_is_given_once() -> None:
    model = double("deformable", "none")
    watch = Watch(model)
    model.observer = watch
    torch.stack(list(step(model).values())).sum().backward()
    assert watch.gradients.products() and not watch.gradients.products()


@pytest.mark.parametrize("base", BASES)
def test_under_autocast_products_are_float32(base: str) -> None:
    model = small_model(BASES[base], HEADS["both"])
    watch = Watch(model)
    model.observer = watch
    with torch.autocast("cpu", torch.bfloat16):
        losses = model(*batch())
    torch.stack([loss.float() for loss in losses.values()]).sum().backward()
    before = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
    products = watch.gradients.products()
    assert list(products) == PAIRS
    for pair, value in products.items():
        assert value.dtype == torch.float32 and value.isfinite(), pair
        assert value > 0 or len(set(pair.split("."))) == 2
    for name, parameter in model.named_parameters():  # measuring leaves no trace in the gradients
        assert parameter.grad is None or torch.equal(parameter.grad, before[name]), name


def test_norms_and_cosines() -> None:
    """Of (3, 4) and (0, 2)."""
    assert norms_and_cosines({"detr.detr": 25.0, "detr.atss": 8.0, "atss.atss": 4.0}) == (
        {"detr": 5.0, "atss": 2.0},
        {"detr.atss": 0.8},
    )
    assert norms_and_cosines({"detr.detr": 25.0, "detr.atss": 0.0, "atss.atss": 0.0}) == (
        {"detr": 5.0, "atss": 0.0},
        {},
    )
    infinite = float("inf")
    assert norms_and_cosines({"detr.detr": infinite, "detr.atss": infinite, "atss.atss": 4.0}) == ({"atss": 2.0}, {})
    assert norms_and_cosines({}) == ({}, {})
