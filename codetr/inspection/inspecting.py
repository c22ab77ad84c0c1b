"""One image, its annotations and a detector to an inspected assignment."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torchvision import tv_tensors

from codetr.data.coco import CocoDataset, Sample
from codetr.data.collate import collate
from codetr.data.transforms import build_transform, evaluation_resize
from codetr.engine.checkpoint import load_weights, read_meta, read_weights
from codetr.engine.run_folder import find_checkpoint
from codetr.errors import UserError
from codetr.inspection.assignment import branches, with_all_positives
from codetr.inspection.report import Inspection, printable
from codetr.inspection.subjects import open_image, with_labels_of
from codetr.models.build import build
from codetr.models.collaborative import Collaborative
from codetr.spec import Spec, load_spec
from codetr.structures import to_device


@dataclass(frozen=True)
class _Subject:
    model: Collaborative
    spec: Spec
    classes: tuple[str, ...]
    sample: Sample
    about: str


def inspect_assignment(
    image: Path,
    annotations: Path,
    *,
    spec: str | None = None,
    checkpoint: Path | None = None,
    overrides: Sequence[str] = (),
    seed: int = 0,
) -> Inspection:
    """What each branch calls positive in an image, resized as in evaluation.

    spec: a path or a name of the zoo; default: the one that the checkpoint was trained with. checkpoint: a run, a
    checkpoint or a file; without it the model is untrained, which matters to what looks at predictions: the Hungarian
    branch, proposals, PAA.
    Raises: UserError if something is wrong with any of them, or the image has no objects.
    """
    sample, dataset = open_image(image, annotations)
    if len(sample.labels) == 0:
        raise UserError(f"{annotations}: {image.name} has no objects (crowd regions are never positive)")
    if checkpoint is None:
        if spec is None:
            raise UserError("a spec or a checkpoint is needed, to know the heads")
        subject = _untrained(spec, overrides, sample, dataset, seed)
    else:
        subject = _trained(spec, overrides, sample, dataset, checkpoint)
    batch = collate([build_transform(subject.spec.data, "val")(subject.sample, seed=0)])
    found = branches(subject.model, batch, subject.spec, seed=seed)
    resize = evaluation_resize(subject.spec.data.resize)
    pixels = resize(tv_tensors.Image(sample.image)).as_subclass(torch.Tensor)
    targets = to_device(batch.targets, "cpu")
    names = tuple(printable(subject.classes[label]) for label in targets.labels[0].tolist())
    return Inspection(pixels, targets.boxes[0], names, tuple(found), printable(image.name), subject.about)


def _untrained(spec: str, overrides: Sequence[str], sample: Sample, dataset: CocoDataset, seed: int) -> _Subject:
    loaded = load_spec(spec, overrides)
    whole = with_all_positives(loaded)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = build(whole, len(dataset.classes), pretrained=False)
    return _Subject(model, whole, dataset.classes, sample, f"{printable(loaded.document.name)}, untrained")


def _trained(
    spec: str | None, overrides: Sequence[str], sample: Sample, dataset: CocoDataset, source: Path
) -> _Subject:
    checkpoint = find_checkpoint(source)
    meta, weights = read_meta(checkpoint), read_weights(checkpoint)
    loaded = load_spec(meta.spec if spec is None else spec, overrides)
    if loaded.heads and all(name.startswith("base.") for name in weights):
        raise UserError(f"{checkpoint}: its heads were left out when it was saved; inspect a checkpoint of the run")
    whole = with_all_positives(loaded)
    model = build(whole, len(meta.classes), pretrained=False)
    load_weights(model, weights, source=checkpoint)
    renamed = with_labels_of(sample, dataset, meta.classes, source=str(checkpoint))
    return _Subject(model, whole, meta.classes, renamed, printable(str(source)))
