"""A published checkpoint file as one of ours: weights, spec, classes."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
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
from codetr.weights.layouts import recognise
from codetr.weights.official import read_official

# Tensors with a row for each class.
_PER_CLASS = re.compile(r"base\.(inner\.)?((?P<proposals>proposals\.)?heads\.classes\.\d+|label_embed)\.(weight|bias)")


@dataclass(frozen=True)
class Converted:
    """conversion: the fate of each tensor. meta: what is written with them. named: False if class names are made up."""

    conversion: Conversion
    meta: Meta
    named: bool


@dataclass(frozen=True)
class _Classes:
    """names, ids: of the categories. named: as in `Converted`. rows: of the file's class tensors; None for all."""

    names: tuple[str, ...]
    ids: tuple[int, ...]
    named: bool
    rows: tuple[int, ...] | None = None


def convert_checkpoint(
    source: Path,
    output: Path,
    *,
    spec: str | None = None,
    overrides: Sequence[str] = (),
    annotations: Path | None = None,
) -> Converted:
    """Convert a published checkpoint of a known layout and write it as .safetensors with its spec.

    spec, overrides: what the weights belong to; by default, the spec of the layout's published weights. annotations: a
    COCO file whose categories, in ascending id, are the classes; without it, 80 classes are COCO's, and 91 are COCO's
    category ids where the layout counts those, of which the 80 that exist are kept.

    Raises: UserError if the file is of no known layout, if a tensor has no place in the spec's model, or if the model
    lacks one of its own.
    """
    if not output.parent.is_dir():
        raise UserError(f"{output}: there is no folder {output.parent}; make it first, or name another file")
    state = read_official(source)
    resolved = None if spec is None else load_spec(spec, overrides)
    layout = recognise(state)
    if resolved is None:
        resolved = load_spec(layout.spec, overrides)
    count = layout.num_classes(state)
    classes = _by_category_id(count, annotations) if layout.by_category_id else _classes(count, annotations)
    expected = _expected(resolved, len(classes.names))
    conversion = _with_rows(layout.convert(state), classes.rows, count, any_object_first=layout.any_object_first)
    conversion = check_against(conversion, expected)
    absent = [name for name in expected if name not in conversion.state]
    if absent:
        raise UserError(
            f"{source} lacks {len(absent)} of the tensors that serve training only, such as {absent[0]}; leave the "
            "heads out: heads={}"
        )
    meta = Meta(classes.names, classes.ids, resolved.model_dump(mode="json"))
    with replaced_file(output) as fresh:
        save_weights(fresh, conversion.state, meta)
    return Converted(_reported(conversion, classes.rows), meta, classes.named)


def _expected(spec: Spec, num_classes: int) -> dict[str, Tensor]:
    with device("meta"):
        return build(spec, num_classes, pretrained=False).state_dict()


def _classes(num_classes: int, annotations: Path | None) -> _Classes:
    if annotations is not None:
        truth = GroundTruth.load(annotations)
        if len(truth.names) != num_classes:
            raise UserError(
                f"{annotations} has {len(truth.names)} categories, the weights {num_classes} classes; name "
                "the file of the data set that they were trained on"
            )
        return _Classes(truth.names, tuple(int(i) for i in truth.category_ids), True)
    if num_classes == len(COCO_CLASSES):
        return _Classes(COCO_CLASSES, COCO_CATEGORY_IDS, True)
    ids = tuple(range(1, num_classes + 1))
    return _Classes(tuple(f"class {i}" for i in ids), ids, False)


def _by_category_id(num_classes: int, annotations: Path | None) -> _Classes:
    """Of weights whose class index is a category id: those ids that are categories."""
    if annotations is not None:
        truth = GroundTruth.load(annotations)
        ids = tuple(int(i) for i in truth.category_ids)
        strange = [i for i in ids if not 0 <= i < num_classes]
        if strange:
            raise UserError(
                f"{annotations} has a category of id {strange[0]}, the weights have classes 0 to {num_classes - 1}; "
                "name the file of the data set that they were trained on"
            )
        return _Classes(truth.names, ids, True, rows=ids)
    if num_classes == COCO_CATEGORY_IDS[-1] + 1:
        return _Classes(COCO_CLASSES, COCO_CATEGORY_IDS, True, rows=COCO_CATEGORY_IDS)
    ids = tuple(range(num_classes))
    return _Classes(tuple(f"class {i}" for i in ids), ids, False)


def _with_rows(
    conversion: Conversion, rows: tuple[int, ...] | None, num_classes: int, *, any_object_first: bool = False
) -> Conversion:
    """The class tensors with these rows alone, and with what follows the rows of the classes: no object.

    any_object_first: the first row of the proposals' stands for any object; it stays the first.
    """
    if rows is None:
        return conversion
    picked = {}
    for name, tensor in conversion.state.items():
        found = _PER_CLASS.fullmatch(name)
        if found is None:
            picked[name] = tensor
        else:
            own = (0, *rows[1:]) if any_object_first and found["proposals"] else rows
            picked[name] = tensor[[*own, *range(num_classes, len(tensor))]]
    return Conversion(picked, conversion.entries)


def _reported(conversion: Conversion, rows: tuple[int, ...] | None) -> Conversion:
    if rows is None:
        return conversion
    entries = [
        replace(entry, detail=f"{entry.detail}, rows of {len(rows)} categories")
        if _PER_CLASS.fullmatch(entry.detail)
        else entry
        for entry in conversion.entries
    ]
    return Conversion(conversion.state, entries)
