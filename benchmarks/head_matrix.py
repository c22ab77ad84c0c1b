"""Does every base train with every one-to-many head, alone and together, and with no objects in sight?

    python benchmarks/head_matrix.py
    python benchmarks/head_matrix.py --bases dino detr --heads none paa all --threads 1

A cell is a base with some heads, at the size of a test. It takes a step on two images with objects, on two of which one
is empty, and on two empty ones. Held are: losses are finite scalars; every trainable parameter gets a finite gradient,
which is zero for exactly those that nothing in the batch can move (`unmoved`); every head
finds positives where there are objects, and only there; the group `match` decodes to the same with and without them.
Writes benchmarks/results/head_matrix.{json,md}; ends with 1 if a cell failed.
"""

from __future__ import annotations

import argparse
import re
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict
from typing import Any

import torch
from _common import environment, write
from _small_bases import Size, small_heads, small_spec
from torch import Tensor

from codetr import zoo
from codetr.models.build import ModelSpec, build
from codetr.models.collaborative import Collaborative
from codetr.registry import names
from codetr.structures import ImageBatch, Targets

CLASSES = 4
TINY = Size(dim=32, queries=9, encoder_layers=1, decoder_layers=2, channels=(8, 16, 16, 16))
HEADS = names("heads")
COLUMNS: dict[str, Sequence[str]] = {
    "none": (),
    **{head: (head,) for head in HEADS},
    "atss+faster_rcnn": ("atss", "faster_rcnn"),
    "all": HEADS,
}
BATCHES = {"objects": (3, 1), "one image empty": (2, 0), "no objects": (0, 0)}

SAME = 1e-5
"""The logits of a group decoded in other company: float32 sums in another order, on values near 1."""

_OF_BOXES = re.compile(
    r"base\..*heads\.boxes\."  # of the decoder and of two-stage proposals
    r"|positive_queries\."
    r"|heads\.\w+\.(box_tower|box|centerness|iou|scales|rpn\.deltas|roi\.deltas|mask)\."
)
_OF_CONTENT = re.compile(
    r"base\.(inner\.)?decoder\.layers\.0\.self_attention\.(query_content|key_content|value)\.weight"
)
_BEGIN_EMPTY = ("conditional_detr", "dab_detr", "group_detr")
"""Their queries have no content before the first layer: only positives have some that its self-attention projects."""
_OF_LABELS = {"dino", "dn_deformable_detr"}
"""Their `label_embed` is of denoising queries alone."""


def forms() -> list[str]:
    """The bases of the zoo and their other forms, as far as they differ at this size (five levels become three)."""
    found: dict[str, str] = {}
    fragments = [name.removeprefix("bases/") for name in zoo.names() if name.startswith("bases/")]
    for base in sorted(fragments, key=lambda name: (name not in names("bases"), name)):
        found.setdefault(small_spec(base, heads=False, size=TINY).model_dump_json(), base)
    return list(found.values())


def cell_heads(heads: Sequence[str]) -> dict[str, Any]:
    """By name. Region proposals learn from every anchor: of a random share the coarsest level may have none."""
    found = small_heads(heads, size=TINY)
    return {name: settings | _every_anchor(settings) for name, settings in found.items()}


def _every_anchor(settings: dict[str, Any]) -> dict[str, Any]:
    return {"rpn": {**settings["rpn"], "samples": 10_000}} if "rpn" in settings else {}


def cell_model(base: str, heads: dict[str, Any]) -> Collaborative:
    """Parameters start away from their regular initial values, so that no gradient is zero because a factor is."""
    spec = small_spec(base, heads=False, size=TINY).model_dump()
    torch.manual_seed(0)
    model = build(ModelSpec.model_validate({**spec, "heads": heads}), CLASSES)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    return model.train()


def cell_batch(counts: Sequence[int]) -> tuple[ImageBatch, Targets]:
    """Two images of noise, the second one padded, with so many objects each; an object is the left half of its box."""
    generator = torch.Generator().manual_seed(1)
    padding = torch.zeros(2, 96, 128, dtype=torch.bool)
    padding[1, 70:] = True
    padding[1, :, 100:] = True
    pixels = torch.randn(2, 3, 96, 128, generator=generator).masked_fill(padding[:, None], 0.0)
    most = max(1, *counts)
    valid = torch.arange(most)[None] < torch.tensor(counts)[:, None]
    corner = torch.rand(2, most, 2, generator=generator) * 40
    boxes = torch.cat([corner, corner + 12 + torch.rand(2, most, 2, generator=generator) * 45], dim=-1)
    labels = torch.randint(0, CLASSES, (2, most), generator=generator)
    crops = (torch.arange(112) < 56).byte().mul(255).expand(2, most, 112, 112)
    targets = Targets(
        boxes.masked_fill(~valid[..., None], 0.0),
        labels.masked_fill(~valid, 0),
        valid,
        tuple(counts),
        mask_crops=crops * valid[..., None, None],
    )
    return ImageBatch(pixels, padding, torch.tensor([[96.0, 128.0], [70.0, 100.0]])), targets


def unmoved(base: str, model: Collaborative, *, objects: bool) -> set[str]:
    """The parameters whose gradient is zero: without objects, those that say what a box is, or a mask."""

    def still(name: str) -> bool:
        if base in _BEGIN_EMPTY and _OF_CONTENT.match(name):
            return not (objects and model.positive_queries)
        if objects:
            return False
        return bool(_OF_BOXES.match(name)) or (base in _OF_LABELS and name == "base.label_embed.weight")

    return {name for name, _ in model.named_parameters() if still(name)}


def problems_of_step(base: str, model: Collaborative, counts: Sequence[int]) -> Iterator[str]:
    """What is wrong with a step's losses and gradients."""
    losses = model(*cell_batch(counts))
    for name, loss in losses.items():
        if loss.ndim or not loss.isfinite():
            yield f"loss {name} is {loss.tolist()}"
    model.zero_grad()
    torch.stack(list(losses.values())).sum().backward()
    gradients = {name: parameter.grad for name, parameter in model.named_parameters() if parameter.requires_grad}
    for name, gradient in gradients.items():
        if gradient is None or not gradient.isfinite().all():
            yield f"gradient of {name} is {'missing' if gradient is None else 'not finite'}"
    still = {name for name, gradient in gradients.items() if gradient is not None and not gradient.any()}
    if any(counts):
        still -= _of_empty_levels(still, gradients)
    for name in sorted(still ^ unmoved(base, model, objects=any(counts))):
        yield f"gradient of {name} is {'zero' if name in still else 'not zero'}"


def _of_empty_levels(still: set[str], names: Iterable[str]) -> set[str]:
    """Scales without a gradient, where others of the same head have one: of levels without a positive."""
    scales = {name for name in names if ".scales." in name}
    moved = {name.rpartition(".")[0] for name in scales - still}
    return {name for name in scales & still if name.rpartition(".")[0] in moved}


@torch.no_grad()
def problems_of_company(model: Collaborative, counts: Sequence[int]) -> Iterator[str]:
    """Whether the heads find positives where there are objects, and whether these change what the matched become."""
    images, targets = cell_batch(counts)
    memory = model.base.encode(images)
    own = list(model.base.propose(memory, targets).groups)
    added = []
    if model.adapter is not None:
        pyramid = model.adapter(memory)
        for name, head in model.heads.items():
            positives = head(pyramid, targets).positives
            found = positives.valid.any(1).tolist()
            if found != [count > 0 for count in counts]:
                yield f"{name} has positives in the images {found}"
            added.append(model._positive_group(name, positives, images.sizes))
    alone = model.base.decode(memory, own).split(own)[0]
    joint = model.base.decode(memory, own + added).split(own + added)[0]
    difference = max(_farthest(joint.logits, alone.logits), _farthest(joint.boxes, alone.boxes))
    if not difference <= SAME:
        yield f"positives change the matched branch by {difference:.1e}"


def _farthest(one: Tensor, other: Tensor) -> float:
    return (one - other).abs().max().item()


def problems(base: str, heads: dict[str, Any]) -> list[str]:
    """Of a cell, each with the batch that showed it."""
    model = cell_model(base, heads)
    found = []
    for name, counts in BATCHES.items():
        found += [f"{name}: {problem}" for problem in problems_of_step(base, model, counts)]
        found += [f"{name}: {problem}" for problem in problems_of_company(model, counts)]
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bases", nargs="+", default=forms(), choices=forms())
    parser.add_argument("--heads", nargs="+", default=list(COLUMNS), choices=list(COLUMNS))
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    cells = []
    for base in options.bases:
        for column in options.heads:
            cells.append({"base": base, "heads": column, **_cell(base, COLUMNS[column])})
            print(base, column, _mark(cells[-1]), *cells[-1]["problems"], sep="\n  ", flush=True)
    record = {"environment": environment(), "size": asdict(TINY), "batches": BATCHES, "cells": cells}
    write("head_matrix", record, _table(cells, options.heads))
    raise SystemExit(any(cell["problems"] for cell in cells))


def _cell(base: str, heads: Sequence[str]) -> dict[str, Any]:
    """What failed, and how long the cell took. An exception is a failure of its cell alone, and reported as one."""
    began = time.perf_counter()
    try:
        found = problems(base, cell_heads(heads))
    except Exception as error:
        found = [f"{type(error).__name__}: {error}"]
    return {"problems": found, "seconds": round(time.perf_counter() - began, 2)}


def _mark(cell: dict[str, Any]) -> str:
    state = f"**{len(cell['problems'])} failed**" if cell["problems"] else "ok"
    return f"{state} {cell['seconds']:.1f}"


def _table(cells: list[dict[str, Any]], columns: Sequence[str]) -> str:
    marks = {(cell["base"], cell["heads"]): _mark(cell) for cell in cells}
    bases = list(dict.fromkeys(cell["base"] for cell in cells))
    failed = [cell for cell in cells if cell["problems"]]
    rows = [
        "# Every base with every head\n",
        f"Each cell: steps on two images with {_counts()} objects; finite losses, a finite gradient of every "
        "parameter, zero for exactly what nothing in the batch can move, and the matched branch unchanged by the "
        "positives that every head finds. Seconds with the model's making and all checks.\n",
        f"{len(cells) - len(failed)} of {len(cells)} cells are ok.\n",
        f"| base | {' | '.join(columns)} |",
        f"|---|{'---|' * len(columns)}",
        *(f"| {base} | {' | '.join(marks[base, column] for column in columns)} |" for base in bases),
    ]
    for cell in failed:
        rows.append(f"\n{cell['base']} with {cell['heads']}:\n")
        rows += [f"- {problem}" for problem in cell["problems"]]
    return "\n".join(rows) + "\n"


def _counts() -> str:
    return "; ".join(" and ".join(map(str, counts)) for counts in BATCHES.values())


if __name__ == "__main__":
    main()
