"""Positives of an object that ATSS and Faster-RCNN find in photographs, beside the paper's 8.8 and 18.7.

    python benchmarks/positives_per_object.py [--data ../shared/data/coco_cc]

Untrained heads of co_deformable_r50 at the size of evaluation. The assignment of ATSS looks at anchors and objects
alone. Faster-RCNN's depends on its proposals: measured are those of an untrained region proposal network, and those
that the same network would give if its objectness were each anchor's true overlap with an object. Writes
benchmarks/results/positives_per_object.{json,md}.
"""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from _common import environment, write

from codetr.data.coco import CocoDataset
from codetr.data.collate import collate
from codetr.data.transforms import build_transform
from codetr.inspection.assignment import with_all_positives
from codetr.inspection.counting import Count, count_positives, random_pyramid
from codetr.models.build import build
from codetr.models.heads.faster_rcnn import FasterRCNN
from codetr.models.parts.rpn import RpnOutput
from codetr.ops.boxes import pairwise_iou
from codetr.spec import Spec, load_spec
from codetr.structures import Batch, Pyramid

SPEC = "co_deformable_r50"
PAPER = {"ATSS": 8.8, "Faster-RCNN": 18.7}
ROWS = {
    "atss": ("ATSS", "the published setting: 9 candidates of a level"),
    "faster_rcnn": ("Faster-RCNN", "proposals of an untrained network"),
    "sampled": ("Faster-RCNN", "ideal objectness; 128 sampled of an image at most"),
    "assigned": ("Faster-RCNN", "ideal objectness; before sampling"),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path(__file__).parents[2] / "shared" / "data" / "coco_cc")
    options = parser.parse_args()
    annotations = options.data / "instances_cc_by.json"
    if not annotations.is_file():
        print(f"skipped: no photographs at {options.data}; name a folder with images/ and instances_cc_by.json")
        return
    spec = with_all_positives(load_spec(SPEC))
    dataset = CocoDataset(annotations, options.data / "images")
    totals, objects, per_image = _measure(spec, dataset)
    rows = {
        name: {
            "head": head,
            "how": how,
            "per_object": totals[name] / objects,
            "median_per_object_by_image": statistics.median(per_image[name]),
            "paper": PAPER[head],
        }
        for name, (head, how) in ROWS.items()
    }
    record = {"environment": environment(), "spec": SPEC, "images": len(dataset), "objects": objects, "rows": rows}
    write("positives_per_object", record, _table(rows, len(dataset), objects))


def _measure(spec: Spec, dataset: CocoDataset) -> tuple[dict[str, int], int, dict[str, list[float]]]:
    """Positives in all images, the number of objects, and positives of an object in each image that has any."""
    torch.manual_seed(0)
    model = build(spec, len(dataset.classes), pretrained=False).eval()
    assert model.adapter is not None
    heads: dict[str, Any] = dict(model.heads.items())
    totals, objects = dict.fromkeys(ROWS, 0), 0
    per_image: dict[str, list[float]] = {name: [] for name in ROWS}
    for index, batch in enumerate(_batches(spec, dataset)):
        counts = count_positives(heads, [batch], model.adapter.strides, dim=model.base.dim, seed=index)
        found: dict[str, int] = {name: count.positives for name, count in counts.items()}
        pyramid = random_pyramid(batch, model.adapter.strides, dim=1)
        found |= _with_ideal_objectness(heads["faster_rcnn"], pyramid, batch)
        number = next(iter(counts.values()), Count(0, 0, 0)).objects
        objects += number
        for name, value in found.items():
            totals[name] += value
            if number:
                per_image[name].append(value / number)
    return totals, objects, per_image


def _batches(spec: Spec, dataset: CocoDataset) -> Iterator[Batch]:
    transform = build_transform(spec.data, "val")
    for index in range(len(dataset)):
        yield collate([transform(dataset[index], seed=0)])


@torch.no_grad()
def _with_ideal_objectness(head: FasterRCNN, pyramid: Pyramid, batch: Batch) -> dict[str, int]:
    """Anchors ranked by their overlap with an object and not moved, then the head's own suppression and sampling."""
    priors = head.rpn.anchors.priors(pyramid)
    overlap = pairwise_iou(priors.of_images(), batch.targets.boxes).amax(2)
    output = RpnOutput(overlap, torch.zeros(*overlap.shape, 4), priors)
    proposals, valid = head.rpn.proposals(output, pyramid.sizes, train=True)
    regions = head.roi.sample(proposals, valid, batch.targets)
    near = pairwise_iou(proposals, batch.targets.boxes).amax(2) >= head.roi.config.positive_iou
    truths = int(batch.targets.valid.sum()) if head.roi.config.add_ground_truth else 0
    return {
        "sampled": int((regions.valid & (regions.gt_index >= 0)).sum()),
        "assigned": int((near & valid).sum()) + truths,
    }


def _table(rows: dict[str, dict[str, Any]], images: int, objects: int) -> str:
    lines = [
        "# Positives of an object, by head\n",
        f"{images} photographs of COCO with {objects} objects (crowd regions left out), short side 800.\n",
        "| head | how | positives / objects | median over images | paper, on COCO |",
        "|---|---|---|---|---|",
        *(
            f"| {row['head']} | {row['how']} | {row['per_object']:.1f} | {row['median_per_object_by_image']:.1f} | "
            f"{row['paper']} |"
            for row in rows.values()
        ),
        "",
        "The anchors of ATSS do not depend on weights, so its number can be compared with the paper's directly; these "
        "photographs are few, and hold more objects than those of COCO do. Faster-RCNN's positives are "
        "proposals with an IoU of 0.5 or more and the objects themselves. An untrained network proposes anchors at "
        "random, few of which fit an object. With ideal objectness the best anchors are proposed, but not refined; a "
        "trained network also moves its boxes towards the objects. Sampling leaves an image 128 positives at most, "
        f"{128 * images / objects:.1f} of an object here, where an image has {objects / images:.1f} of them; "
        "in COCO it has seven.\n",
    ]
    return "\n".join(lines)


if __name__ == "__main__":
    main()
