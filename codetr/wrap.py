"""One-to-many heads around a base: the spec, what it trains and ships, and the proof that inference is untouched."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import nn

from codetr import zoo
from codetr.errors import UserError, suggestion
from codetr.models.build import ModelSpec, build
from codetr.registry import find
from codetr.structures import ImageBatch

_PROBE_SIDE = 256


@dataclass(frozen=True)
class WrapReport:
    """trained: parameters with a gradient in training, by part. shipped: parameters at inference, frozen ones included.

    unchanged: the detections with and without the heads were compared on an image and are bit-identical.
    """

    trained: dict[str, int]
    shipped: int
    unchanged: bool


def wrap_spec(base: str, heads: Sequence[str], *, backbone: str = "resnet50", schedule: str = "12e") -> str:
    """The text of a spec: a base of the zoo with heads, two of a kind if named twice. Learning rates are the base's
    own.

    Raises: UserError with the nearest name if a base, head, backbone or schedule does not exist.
    """
    fragments = [f"bases/{base}", f"backbones/{backbone}", "data/coco", f"schedules/{schedule}"]
    known = zoo.names()
    for fragment in fragments:
        kind, name = fragment.split("/")
        if fragment not in known:
            there = [entry.partition("/")[2] for entry in known if entry.startswith(f"{kind}/")]
            raise UserError(f"no {name!r} in the zoo's {kind}; {suggestion(name, there, kind='names')}")
    instances: dict[str, str] = {}
    for head in heads:
        find("heads", head)
        count = sum(kind == head for kind in instances.values())
        plain = head.rpartition(":")[2].lower()
        instances[plain if count == 0 else f"{plain}_{count + 1}"] = head
    lines = [
        f"# {base} with {' and '.join(heads)} (K = {len(instances)}). Written by `codetr wrap`.",
        f"extends: [{', '.join(fragments)}]",
        "heads:",
        *(
            f"  {instance}: {'{}' if instance == head else f'{{name: {head!r}}}'}"
            for instance, head in instances.items()
        ),
        "collaborative: {lambda_1: 1.0, lambda_2: 2.0, positive_queries: true}",
    ]
    return "\n".join(lines) + "\n"


def wrap_report(spec: ModelSpec, *, num_classes: int) -> WrapReport:
    """Build a spec without published weights, count it, and compare its inference with the bare base's."""
    model = build(spec, num_classes, pretrained=False).eval()
    bare = build(spec.model_copy(update={"heads": {}}), num_classes, pretrained=False).eval()
    bare.base.load_state_dict(model.base.state_dict())
    side = _PROBE_SIDE
    padding = torch.zeros(1, side, side, dtype=torch.bool)
    images = ImageBatch(torch.randn(1, 3, side, side), padding, torch.full((1, 2), float(side)))
    with torch.no_grad():
        (ours,), (theirs,) = model.predict(images), bare.predict(images)
    same = (torch.equal(getattr(ours, name), getattr(theirs, name)) for name in ("boxes", "scores", "labels"))
    parts: dict[str, nn.Module] = {"base": model.base}
    if model.adapter is not None:
        parts["adapter"] = model.adapter
    parts |= {f"head {name}": head for name, head in model.heads.items()}
    parts |= {f"positive queries of {name}": queries for name, queries in model.positive_queries.items()}
    trained = {name: sum(p.numel() for p in part.parameters() if p.requires_grad) for name, part in parts.items()}
    return WrapReport(trained, sum(p.numel() for p in model.base.parameters()), all(same))
