"""One-to-many heads around a base: the spec, what it trains and ships, and the proof that inference is untouched."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from codetr import yaml_nodes, zoo
from codetr.data.coco import CocoDataset, Sample, open_split
from codetr.data.collate import collate
from codetr.data.transforms import build_transform
from codetr.document import EXTENDS, locate
from codetr.errors import UserError, suggestion
from codetr.inference_trace import trace
from codetr.inspection.counting import Count, count_positives
from codetr.inspection.step_cost import StepCost, step_cost, training_parts
from codetr.inspection.subjects import render_scene
from codetr.models.build import ModelSpec, build
from codetr.models.collaborative import Collaborative
from codetr.models.heads.contract import Head
from codetr.registry import find
from codetr.spec import Spec, load_spec
from codetr.structures import Batch, ImageBatch

_PROBE_SIDE = 256
_SCENES = 2
_IMAGES = 8
CLASSES = 80
"""Where no data set says how many there are."""


@dataclass(frozen=True)
class Part:
    """parameters: all; trained: those with a gradient in training. flops: of a training step's forward pass, None where
    they could not be counted. ships: whether inference has it."""

    name: str
    parameters: int
    trained: int
    flops: int | None
    ships: bool


@dataclass(frozen=True)
class Positives:
    """slots: the most positives that a head adds to an image, None where they could not be counted. found: in the
    images that were looked at."""

    head: str
    slots: int | None
    found: Count


@dataclass(frozen=True)
class WrapReport:
    """What heads around a base mean.

    inference_flops: on one image. uncounted: why the operations of a step were not counted, else nothing. images: where
    `positives` were found. unchanged: the detections with and without the heads were compared on an image and are
    bit-identical.
    """

    parts: tuple[Part, ...]
    positives: tuple[Positives, ...]
    inference_flops: int
    uncounted: str
    images: str
    num_classes: int
    unchanged: bool


def wrap_spec(base: str, heads: Sequence[str], *, backbone: str = "resnet50", schedule: str | None = None) -> str:
    """The text of a spec: a base of the zoo with heads, two of a kind if named twice.

    The base brings its learning rates, its schedule unless another is named, its neck, and the stages that it takes of
    whichever backbone.

    Raises: UserError with the nearest name if a base, head, backbone or schedule does not exist.
    """
    fragments = [f"bases/{base}", f"backbones/{backbone}", "data/coco"]
    if schedule is not None:
        fragments.append(f"schedules/{schedule}")
    known = zoo.names()
    for fragment in fragments:
        kind, name = fragment.split("/")
        if fragment not in known:
            there = [entry.partition("/")[2] for entry in known if entry.startswith(f"{kind}/")]
            raise UserError(f"no {name!r} in the zoo's {kind}; {suggestion(name, there, kind='names')}")
    return _text(base, fragments, _instances(heads, ()), present=0, settings=True)


def wrap_existing(spec: str, heads: Sequence[str], *, folder: Path) -> str:
    """The text of a spec in `folder`: another one, by path or zoo name, with heads beside those that it has.

    Raises: UserError if there is no such spec or head.
    """
    file, present = locate(spec), load_spec(spec)
    resolved = file.resolve()
    if resolved.is_relative_to(zoo.root()):
        entry = resolved.relative_to(zoo.root()).with_suffix("").as_posix()
    else:
        entry = Path(os.path.relpath(resolved, folder.resolve())).as_posix()
    settings = present.document.root.child("collaborative") is None
    instances = _instances(heads, tuple(present.heads))
    return _text(file.stem, [entry], instances, present=len(present.heads), settings=settings)


def load_wrapped(text: str, folder: Path, overrides: Sequence[str] = ()) -> Spec:
    """The spec of such a text as if it lay in `folder` already."""
    settings: dict[str, Any] = yaml_nodes.parse(text, "the new spec").plain()
    paths = (str(folder / name) if name.endswith((".yaml", ".yml")) else name for name in settings[EXTENDS])
    return load_spec({**settings, EXTENDS: list(paths)}, overrides)


def _instances(heads: Sequence[str], taken: Sequence[str]) -> dict[str, str]:
    """Heads by instance name: that of the component, numbered from the second on."""
    found: dict[str, str] = {}
    for head in heads:
        find("heads", head)
        plain = head.rpartition(":")[2].lower()
        name, number = plain, 2
        while name in found or name in taken:
            name, number = f"{plain}_{number}", number + 1
        found[name] = head
    return found


def _text(name: str, extends: Sequence[str], instances: dict[str, str], *, present: int, settings: bool) -> str:
    beside = f" beside the {present} it has" if present else ""
    lines = [
        f"# {name} with {' and '.join(instances.values())}{beside} (K = {present + len(instances)}). "
        "Written by `codetr wrap`.",
        f"extends: [{', '.join(_quoted(entry) for entry in extends)}]",
        "heads:",
        *(
            f"  {instance}: {'{}' if instance == head else f'{{name: {head!r}}}'}"
            for instance, head in instances.items()
        ),
    ]
    if settings:
        lines.append("collaborative: {lambda_1: 1.0, lambda_2: 2.0, positive_queries: true}")
    if any(find("heads", head).has_masks for head in instances.values()):
        lines.append("data: {masks: true}")
    return "\n".join(lines) + "\n"


def _quoted(entry: str) -> str:
    return entry if re.fullmatch(r"[\w./-]+", entry, re.ASCII) else json.dumps(entry)


def wrap_report(spec: Spec, *, num_classes: int = CLASSES, has_data: bool = False, seed: int = 0) -> WrapReport:
    """Build a spec without published weights, count it, and compare its inference with the bare base's.

    has_data: look for positives in validation images of the spec's data set, not in rendered scenes; the classes are
    then those of the data set.
    Raises: UserError if the model cannot be built, or the data set cannot be read.
    """
    samples, where, num_classes = _data_set(spec) if has_data else _scenes(num_classes)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = build(spec, num_classes, pretrained=False)
        unchanged = _is_inference_unchanged(model, spec)
    cost, uncounted = _cost(spec, num_classes)
    with torch.device("meta"):
        shapes = build(spec, num_classes, pretrained=False)
    flops = trace(shapes.requires_grad_(False).eval()).flops
    return WrapReport(
        _parts(model, cost),
        _positives(model, cost, [_batch(spec, sample) for sample in samples]),
        sum(flops.values()),
        uncounted,
        where,
        num_classes,
        unchanged,
    )


def _is_inference_unchanged(model: Collaborative, spec: ModelSpec) -> bool:
    """Whether detections are, bit by bit, those of a model that never had heads and has the same base."""
    bare = build(spec.model_copy(update={"heads": {}}), model.num_classes, pretrained=False).eval()
    bare.base.load_state_dict(model.base.state_dict())
    side = _PROBE_SIDE
    padding = torch.zeros(1, side, side, dtype=torch.bool)
    images = ImageBatch(torch.randn(1, 3, side, side), padding, torch.full((1, 2), float(side)))
    model.eval()
    with torch.no_grad():
        (ours,), (theirs,) = model.predict(images), bare.predict(images)
    return all(torch.equal(getattr(ours, name), getattr(theirs, name)) for name in ("boxes", "scores", "labels"))


def _cost(spec: ModelSpec, num_classes: int) -> tuple[StepCost | None, str]:
    """The operations of a step, or why they cannot be counted."""
    try:
        return step_cost(spec, num_classes=num_classes), ""
    except (NotImplementedError, RuntimeError) as error:  # a head from outside that reads numbers from the device
        return None, f"{type(error).__name__}: {str(error).strip().partition(chr(10))[0]}"


def _parts(model: Collaborative, cost: StepCost | None) -> tuple[Part, ...]:
    base = [Part("base", *_parameters(model.base), None if cost is None else cost.base, True)]
    if model.positive_queries:
        base.append(Part("decoder, for positive queries", 0, 0, None if cost is None else cost.decoder, False))
    parts = [
        Part(_spoken(name), *_parameters(module), None if cost is None else cost.parts[name], False)
        for name, module in training_parts(model).items()
    ]
    return (*base, *parts)


def _parameters(module: nn.Module) -> tuple[int, int]:
    """All, and those that are trained."""
    sizes = [(parameter.numel(), parameter.requires_grad) for parameter in module.parameters()]
    return sum(size for size, _ in sizes), sum(size for size, is_trained in sizes if is_trained)


def _spoken(name: str) -> str:
    kind, _, instance = name.partition(".")
    return {"heads": f"head {instance}", "positive_queries": f"positive queries of {instance}"}.get(kind, name)


def _positives(model: Collaborative, cost: StepCost | None, batches: Sequence[Batch]) -> tuple[Positives, ...]:
    if model.adapter is None:
        return ()
    heads = {name: head for name, head in model.heads.items() if isinstance(head, Head)}
    found = count_positives(heads, batches, model.adapter.strides, dim=model.base.dim)
    return tuple(Positives(name, None if cost is None else cost.slots[name], found[name]) for name in heads)


def _batch(spec: Spec, sample: Sample) -> Batch:
    return collate([build_transform(spec.data, "val")(sample, seed=0)])


def _scenes(num_classes: int) -> tuple[list[Sample], str, int]:
    """Rendered images, what they are, and the number of classes."""
    scenes = [render_scene(seed, num_classes=num_classes) for seed in range(_SCENES)]
    return scenes, f"{_SCENES} rendered scenes", num_classes


def _data_set(spec: Spec) -> tuple[list[Sample], str, int]:
    """The same of a few validation images of a data set."""
    dataset = open_split(spec.data, "val")
    chosen = _spread(dataset)
    return [dataset[index] for index in chosen], f"{len(chosen)} images of {dataset.annotations}", len(dataset.classes)


def _spread(dataset: CocoDataset) -> list[int]:
    """A few images from all over the data set."""
    count = min(_IMAGES, len(dataset))
    return [index * len(dataset) // count for index in range(count)]
