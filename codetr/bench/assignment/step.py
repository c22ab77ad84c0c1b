"""The share of a training step that is matching, assignment and suppression, with the kernels and without."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from statistics import median
from typing import Any
from unittest.mock import patch

import torch
from codetr_kernels import backend

from codetr.assigners.atss import ATSSAssigner
from codetr.assigners.max_iou import MaxIoUAssigner
from codetr.losses import set_loss
from codetr.models.build import build
from codetr.models.collaborative import Collaborative
from codetr.models.parts import detections, rpn
from codetr.spec import load_spec
from codetr.structures import ImageBatch, Targets

SPEC = "co_deformable_small"
CLASSES = 80

PARTS: dict[str, tuple[tuple[Any, str], ...]] = {
    "matching": ((set_loss, "hungarian_match"),),
    "assignment": ((ATSSAssigner, "assign"), (MaxIoUAssigner, "assign")),
    "suppression": ((rpn, "nms"), (detections, "nms")),
}
"""What is measured, and where a training step finds it."""


@dataclass(frozen=True)
class Share:
    """Medians over steps, milliseconds. step: forward, backward and all; parts: of it, by name of `PARTS`."""

    form: str
    step: float
    parts: dict[str, float]

    @property
    def share(self) -> float:
        """Of the step."""
        return sum(self.parts.values()) / self.step

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {**asdict(self), "share": self.share}


def measure_shares(device: torch.device, *, steps: int = 5) -> list[Share]:
    """Steps of a small Co-DETR with the parts in scipy's and PyTorch's forms, then as they run here by themselves.

    On a GPU: two images of 800 x 1333, 60 objects, 900 queries. On a CPU: four of 240 x 320, 20 objects, 100 queries,
    where both forms are the same code. The device is waited for around every part, so a part is all of its own time.
    """
    is_gpu = device.type == "cuda"
    model = build(load_spec(SPEC, ["base.num_queries=900"] if is_gpu else []), CLASSES, pretrained=False).to(device)
    batch = _batch(2, (800, 1333), 60, device) if is_gpu else _batch(4, (240, 320), 20, device)
    return [_measured(model, batch, device, form, steps) for form in ("references", "kernels")]


@contextmanager
def references() -> Iterator[None]:
    """Inside, every operation of `codetr_kernels` runs its reference: by scipy, torchvision or PyTorch's operations."""
    with patch.object(backend, "_chosen", lambda *arguments: False):
        yield


def describe(shares: list[Share]) -> list[str]:
    """Lines for a reader."""
    return [
        f"{found.form}: step {found.step:.1f} ms; "
        + ", ".join(f"{name} {value:.2f} ms" for name, value in found.parts.items())
        + f"; together {100 * found.share:.1f} %"
        for found in shares
    ]


def _measured(
    model: Collaborative, batch: tuple[ImageBatch, Targets], device: torch.device, form: str, steps: int
) -> Share:
    times: dict[str, list[float]] = {name: [] for name in ("step", *PARTS)}
    now: dict[str, float] = {}
    with ExitStack() as stack:
        for name, places in PARTS.items():
            for owner, attribute in places:
                timed = _timed(getattr(owner, attribute), now, name, device, forced=form == "references")
                stack.enter_context(patch.object(owner, attribute, timed))
        for number in range(steps + 2):
            now.clear()
            start = _now(device)
            torch.manual_seed(number)
            losses = model(*batch)
            torch.stack([loss.float() for loss in losses.values()]).sum().backward()
            model.zero_grad(set_to_none=True)
            now["step"] = _now(device) - start
            if number >= 2:  # the first ones compile kernels and fill caches
                for name, values in times.items():
                    values.append(1000 * now.get(name, 0.0))
    medians = {name: median(values) for name, values in times.items()}
    return Share(form, medians.pop("step"), medians)


def _timed(
    function: Callable[..., Any], now: dict[str, float], name: str, device: torch.device, *, forced: bool
) -> Callable[..., Any]:
    def call(*arguments: Any, **options: Any) -> Any:
        start = _now(device)
        with references() if forced else ExitStack():
            result = function(*arguments, **options)
        now[name] = now.get(name, 0.0) + _now(device) - start
        return result

    return call


def _now(device: torch.device) -> float:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()


def _batch(images: int, size: tuple[int, int], objects: int, device: torch.device) -> tuple[ImageBatch, Targets]:
    """Noise, with boxes anywhere in it."""
    generator = torch.Generator().manual_seed(0)
    height, width = size
    extent = torch.tensor([width, height, width, height], dtype=torch.float32)
    corner = 0.7 * torch.rand(images, objects, 2, generator=generator)
    sides = 0.02 + 0.28 * torch.rand(images, objects, 2, generator=generator)
    pixels = ImageBatch(
        torch.randn(images, 3, height, width, generator=generator).to(device),
        torch.zeros(images, height, width, dtype=torch.bool, device=device),
        torch.tensor([[float(height), float(width)]] * images, device=device),
    )
    targets = Targets(
        (torch.cat([corner, corner + sides], -1) * extent).to(device),
        torch.randint(CLASSES, (images, objects), generator=generator).to(device),
        torch.ones(images, objects, dtype=torch.bool, device=device),
        (objects,) * images,
    )
    return pixels, targets
