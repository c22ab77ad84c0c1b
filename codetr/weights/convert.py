"""A published checkpoint file as one of ours: weights, spec, classes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor, device

from codetr.data.coco_classes import COCO_CATEGORY_IDS, COCO_CLASSES
from codetr.engine.checkpoint import Meta, save_weights
from codetr.engine.files import replaced_file
from codetr.errors import UserError
from codetr.evaluation.truth import GroundTruth
from codetr.models.build import build
from codetr.spec import Spec, load_spec
from codetr.weights.conversion import Conversion, check_against
from codetr.weights.official import convert_official, num_classes_of, read_official


@dataclass(frozen=True)
class Converted:
    """conversion: the fate of each tensor. meta: what is written with them. named: False if class names are made up."""

    conversion: Conversion
    meta: Meta
    named: bool


def convert_checkpoint(
    source: Path, output: Path, *, spec: str, overrides: Sequence[str] = (), annotations: Path | None = None
) -> Converted:
    """Convert an official Co-Deformable-DETR checkpoint and write it as .safetensors with its spec.

    spec, overrides: what the weights belong to. annotations: a COCO file whose categories, in ascending id, are the
    classes; without it, 80 classes are COCO's.

    Raises: UserError if the file is not such a checkpoint, if a tensor has no place in the spec's model, or if the
    model lacks one of its own.
    """
    if not output.parent.is_dir():
        raise UserError(f"{output}: there is no folder {output.parent}; make it first, or name another file")
    state = read_official(source)
    resolved = load_spec(spec, overrides)
    conversion = convert_official(state)
    num_classes = num_classes_of(state)
    classes, ids, named = _classes(num_classes, annotations)
    expected = _expected(resolved, num_classes)
    conversion = check_against(conversion, expected)
    absent = [name for name in expected if name not in conversion.state]
    if absent:
        raise UserError(
            f"{source} lacks {len(absent)} of the tensors that serve training only, such as {absent[0]}; leave the "
            "heads out: heads={}"
        )
    meta = Meta(classes, ids, resolved.model_dump(mode="json"))
    with replaced_file(output) as fresh:
        save_weights(fresh, conversion.state, meta)
    return Converted(conversion, meta, named)


def _expected(spec: Spec, num_classes: int) -> dict[str, Tensor]:
    with device("meta"):
        return build(spec, num_classes, pretrained=False).state_dict()


def _classes(num_classes: int, annotations: Path | None) -> tuple[tuple[str, ...], tuple[int, ...], bool]:
    if annotations is not None:
        truth = GroundTruth.load(annotations)
        if len(truth.names) != num_classes:
            raise UserError(
                f"{annotations} has {len(truth.names)} categories, the weights {num_classes} classes; name "
                "the file of the data set that they were trained on"
            )
        return truth.names, tuple(int(i) for i in truth.category_ids), True
    if num_classes == len(COCO_CLASSES):
        return COCO_CLASSES, COCO_CATEGORY_IDS, True
    ids = tuple(range(1, num_classes + 1))
    return tuple(f"class {i}" for i in ids), ids, False
