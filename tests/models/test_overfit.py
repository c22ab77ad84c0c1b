"""Every base learns two pictures: a few dozen steps bring the loss down. In full: `benchmarks/overfit_bases.py`."""

from __future__ import annotations

import pytest
import torch
from every_base import BASES, tiny_spec
from torch import Tensor

from codetr.models.build import build
from codetr.structures import ImageBatch, Targets

STEPS = 60
FACTOR = 0.5
"""The decoder's loss on the matched queries falls to this share of the first step's, or below."""


def pictures() -> tuple[ImageBatch, Targets]:
    """Bright rectangles of two colours on grey noise, three on the first picture and one on the second."""
    generator = torch.Generator().manual_seed(0)
    pixels = 0.2 * torch.randn(2, 3, 96, 96, generator=generator)
    boxes = torch.tensor(
        [[[8.0, 8, 40, 40], [52, 20, 88, 60], [20, 60, 60, 88]], [[30, 30, 80, 70], [0, 0, 0, 0], [0, 0, 0, 0]]]
    )
    labels = torch.tensor([[0, 1, 0], [1, 0, 0]])
    counts = (3, 1)
    for image, count in enumerate(counts):
        for (x1, y1, x2, y2), label in zip(boxes[image, :count].int().tolist(), labels[image].tolist(), strict=False):
            pixels[image, 2 * label, y1:y2, x1:x2] += 2.0
    valid = torch.arange(3)[None] < torch.tensor(counts)[:, None]
    images = ImageBatch(pixels, torch.zeros(2, 96, 96, dtype=torch.bool), torch.full((2, 2), 96.0))
    return images, Targets(boxes, labels, valid, counts)


def matched(losses: dict[str, Tensor]) -> float:
    """The last layer's loss on the matched queries."""
    layers = [name for name in losses if name.startswith("match.")]
    last = max(name.split(".")[1] for name in layers)
    return sum(losses[name].item() for name in layers if name.split(".")[1] == last)


@pytest.mark.parametrize("base", BASES)
def test_the_loss_falls(base: str) -> None:
    torch.manual_seed(0)
    model = build(tiny_spec(base, heads=False), 2).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3)
    batch = pictures()
    history = []
    for _ in range(STEPS):
        losses = model(*batch)
        history.append(matched(losses))
        optimizer.zero_grad()
        torch.stack(list(losses.values())).sum().backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 5.0)
        optimizer.step()
    assert sum(history[-5:]) / 5 < FACTOR * history[0], history
