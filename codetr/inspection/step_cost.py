"""Operations of one training step's forward pass, part by part, counted on shapes alone."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from codetr.inference_trace import FORMULAS, IMAGE
from codetr.models.build import ModelSpec, build
from codetr.models.collaborative import Collaborative
from codetr.ops.masks import CROP_SIDE
from codetr.structures import HeadOutput, ImageBatch, Targets

OBJECTS = 8
"""Objects of the image for which operations are counted; COCO's images have seven on average."""


@dataclass(frozen=True)
class StepCost:
    """Forward pass of one training step on one image of `IMAGE` with `OBJECTS` objects; a multiply-add is two.

    Counted are convolutions, matrix products, attention and its samples; not what works element by element, pooling of
    regions, suppression and matching. base: encoder and decoder without heads. decoder: what the positive queries add
    to that. parts: of adapter, heads and positive queries, by the names that they have in the model. slots: the most
    positive queries that each head adds to an image.
    """

    base: int
    decoder: int
    parts: Mapping[str, int]
    slots: Mapping[str, int]

    @property
    def total(self) -> int:
        return self.base + self.decoder + sum(self.parts.values())


def step_cost(spec: ModelSpec, *, num_classes: int) -> StepCost:
    """Count a step with the heads of the spec, and one without.

    Raises: NotImplementedError or RuntimeError of PyTorch if a component from outside reads numbers in its step.
    """
    plain, _ = _count(spec.model_copy(update={"heads": {}}), num_classes)
    parts, slots = _count(spec, num_classes) if spec.heads else (plain, {})
    base, whole = plain["base"], dict(parts)
    return StepCost(base, whole.pop("base") - base, whole, slots)


def _count(spec: ModelSpec, num_classes: int) -> tuple[dict[str, int], dict[str, int]]:
    """Operations by part, `base` for all that is in none, and the slots of each head."""
    height, width = IMAGE
    with torch.device("meta"), torch.no_grad():
        # Without gradients altogether: the counter hooks whatever has one, and some views made here have no history.
        model = build(spec, num_classes, pretrained=False).train().requires_grad_(False)
        images = ImageBatch(
            torch.empty(1, 3, height, width), torch.empty(1, height, width, dtype=torch.bool), torch.empty(1, 2)
        )
        objects = torch.empty(1, OBJECTS, dtype=torch.bool)
        targets = Targets(
            torch.empty(1, OBJECTS, 4),
            torch.empty(1, OBJECTS, dtype=torch.int64),
            objects,
            (OBJECTS,),
            torch.empty(1, OBJECTS, CROP_SIDE, CROP_SIDE, dtype=torch.uint8),
            ignore_boxes=torch.empty(1, 0, 4),
            ignore_valid=objects[:, :0],
        )
        with FlopCounterMode(display=False, custom_mapping=FORMULAS) as counter, _watched(model, counter) as found:
            model(images, targets)
    counts, slots = found
    return {"base": counter.get_total_flops() - sum(counts.values()), **counts}, slots


@contextmanager
def _watched(model: Collaborative, counter: FlopCounterMode) -> Iterator[tuple[dict[str, int], dict[str, int]]]:
    counts: dict[str, int] = defaultdict(int)
    slots: dict[str, int] = {}

    def before(name: str) -> Callable[[nn.Module, Any], None]:
        def hook(module: nn.Module, args: Any) -> None:
            counts[name] -= counter.get_total_flops()

        return hook

    def after(name: str) -> Callable[[nn.Module, Any, Any], None]:
        def hook(module: nn.Module, args: Any, output: Any) -> None:
            counts[name] += counter.get_total_flops()
            if isinstance(output, HeadOutput):
                slots[name.removeprefix("heads.")] = output.positives.valid.shape[1]

        return hook

    handles = []
    for name, module in training_parts(model).items():
        handles += [module.register_forward_pre_hook(before(name)), module.register_forward_hook(after(name))]
    try:
        yield counts, slots
    finally:
        for handle in handles:
            handle.remove()


def training_parts(model: Collaborative) -> dict[str, nn.Module]:
    """What inference does not have, by the names in the model."""
    parts: dict[str, nn.Module] = {} if model.adapter is None else {"adapter": model.adapter}
    for kind, group in (("heads", model.heads), ("positive_queries", model.positive_queries)):
        parts |= {f"{kind}.{name}": module for name, module in group.items()}
    return parts
