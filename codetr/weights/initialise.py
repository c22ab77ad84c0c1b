"""Training starts from the weights of another model: whatever fits, and of what belongs to classes their rows, by name.

The class names are those that both checkpoints and data sets carry, so that neither another order of the classes nor
another number of them mixes them up.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from codetr.engine.checkpoint import Meta, read_meta, read_weights
from codetr.engine.run_folder import find_checkpoint
from codetr.errors import UserError
from codetr.models.build import ModelSpec
from codetr.models.collaborative import Collaborative
from codetr.weights.class_rows import ClassRows, class_rows

SHOWN = 8


@dataclass(frozen=True)
class InitReport:
    """What became of the classes and tensors of a model, and of the tensors of the checkpoint.

    source: the checkpoint. matched: classes whose rows were copied, with their names there. new: the other classes.
    copied: tensors taken over. partly: those of which some rows were. fresh: those that keep their initial values, with
    the reason. unused: those of the checkpoint that have no place in the model.
    """

    source: Path
    matched: Mapping[str, str]
    new: tuple[str, ...]
    copied: tuple[str, ...]
    partly: tuple[str, ...]
    fresh: Mapping[str, str]
    unused: tuple[str, ...]

    def line(self) -> str:
        """For the plan of a run: short."""
        total = len(self.matched) + len(self.new)
        classes = f"{len(self.matched)} of {total} classes by name"
        if self.new:
            classes += f" (new: {', '.join(self.new[:SHOWN])}{', ...' if len(self.new) > SHOWN else ''})"
        counts = {"copied": self.copied, "in part": self.partly, "fresh": self.fresh, "unused": self.unused}
        tensors = ", ".join(f"{len(names)} {what}" for what, names in counts.items() if names)
        return f"{self.source}: {classes}; tensors: {tensors}"

    def listing(self) -> str:
        """Everything, a class or tensor a line."""
        sections = {
            "classes copied": [
                own if own == other else f"{own} (there {other})" for own, other in self.matched.items()
            ],
            "classes that start afresh": list(self.new),
            "tensors that start afresh": [f"{name}: {reason}" for name, reason in self.fresh.items()],
            "tensors of which the rows of some classes are copied": list(self.partly),
            "tensors of the checkpoint that the model has no place for": list(self.unused),
            "tensors copied": list(self.copied),
        }
        blocks = [
            f"{title} ({len(lines)}):" + "".join(f"\n  {line}" for line in lines) for title, lines in sections.items()
        ]
        return f"initialised from {self.source}\n\n" + "\n\n".join(blocks) + "\n"


def brings_backbone(source: Path, spec: ModelSpec) -> bool:
    """Whether a checkpoint has the backbone of a spec, so that `build` need not fetch published weights for it.

    Raises: UserError if there is no such checkpoint.
    """
    theirs = dict(read_meta(_checkpoint(source)).spec.get("backbone", {}))
    own = spec.model_dump(mode="json")["backbone"]
    return {**theirs, "pretrained": None} == {**own, "pretrained": None}


def initialise(model: Collaborative, spec: ModelSpec, classes: Sequence[str], source: Path) -> InitReport:
    """Copy into a model what fits of the weights of another.

    spec, classes: what the model was built of, and the names of its classes in order. source: a run (its best
    checkpoint, else its last), a checkpoint folder, or a .safetensors file of `codetr train` or `codetr convert`.

    A tensor is copied if it has the same name and shape. In one that grows with the number of classes, the rows of a
    class are copied from those of the class with the same name (see `match_classes`), and rows that belong to no class
    as they are; other rows keep their initial values.

    Raises: UserError if there is no such checkpoint, or nothing of it fits.
    """
    path = _checkpoint(source)
    meta, theirs = read_meta(path), read_weights(path)
    matched = match_classes(classes, meta.classes)
    rows = class_rows(model, spec)
    copied: list[str] = []
    partly: list[str] = []
    fresh: dict[str, str] = {}
    own = model.state_dict()
    for name, tensor in own.items():
        if name not in theirs:
            fresh[name] = "not in the checkpoint"
        elif name in rows:
            done = _copy_rows(tensor, theirs[name], rows[name], matched, len(classes), len(meta.classes))
            if isinstance(done, str):
                fresh[name] = done
            else:
                (copied if done == tensor.shape[rows[name].axis] else partly).append(name)
        elif tensor.shape != theirs[name].shape:
            fresh[name] = _other_shape(tensor, theirs[name])
        else:
            tensor.copy_(theirs[name])
            copied.append(name)
    if not any(own[name].ndim > 1 for name in (*copied, *partly)):  # short vectors fit nearly everywhere
        raise UserError(_nothing_fits(path, meta, spec))
    return InitReport(
        source=path,
        matched={classes[here]: meta.classes[there] for here, there in matched.items()},
        new=tuple(name for index, name in enumerate(classes) if index not in matched),
        copied=tuple(copied),
        partly=tuple(partly),
        fresh=fresh,
        unused=tuple(name for name in theirs if name not in own),
    )


def match_classes(classes: Sequence[str], others: Sequence[str]) -> dict[int, int]:
    """For the index of a class, the index among `others` of the one with the same name.

    Names are the same to the letter, or else apart from case, spaces, underscores and hyphens. A name that could be
    meant twice, here or there, has no match.
    """
    plain, plain_others = [_plain(name) for name in classes], [_plain(name) for name in others]
    return dict(sorted((_same_names(plain, plain_others) | _same_names(classes, others)).items()))


def _same_names(classes: Sequence[str], others: Sequence[str]) -> dict[int, int]:
    here, there = Counter(classes), Counter(others)
    return {index: others.index(name) for index, name in enumerate(classes) if here[name] == 1 and there[name] == 1}


def _plain(name: str) -> str:
    return " ".join(name.replace("_", " ").replace("-", " ").split()).casefold()


@torch.no_grad()
def _copy_rows(
    tensor: Tensor, other: Tensor, rows: ClassRows, matched: Mapping[int, int], num_classes: int, their_classes: int
) -> int | str:
    """How many rows of the tensor were copied, or why none was."""
    expected = list(tensor.shape)
    expected[rows.axis] = rows.size(their_classes)
    if list(other.shape) != expected:
        return _other_shape(tensor, other)
    pairs = rows.pairs(matched, num_classes, their_classes)
    if not pairs:
        unknown = "the order of its rows is not known"
        return unknown if rows.order == "unknown" else "none of its classes is in the checkpoint"
    here, there = (torch.tensor(index) for index in zip(*pairs, strict=True))
    picked = other.movedim(rows.axis, 0)[there].to(tensor)
    tensor.movedim(rows.axis, 0)[here.to(tensor.device)] = picked
    return len(pairs)


def _other_shape(tensor: Tensor, other: Tensor) -> str:
    return f"shape {tuple(tensor.shape)}, in the checkpoint {tuple(other.shape)}"


def _checkpoint(source: Path) -> Path:
    if source.is_file() and source.suffix != ".safetensors":
        raise UserError(
            f"train.init_from: {source} is no .safetensors file of this package. Convert it first: codetr convert "
            f"{source} {source.with_suffix('.safetensors').name}"
        )
    return find_checkpoint(source)


def _nothing_fits(path: Path, meta: Meta, spec: ModelSpec) -> str:
    theirs = {kind: meta.spec.get(kind, {}).get("name", "unknown") for kind in ("base", "backbone")}
    return (
        f"train.init_from: nothing of {path} fits the model: its base is {theirs['base']} on {theirs['backbone']}, the "
        f"model's {spec.base.name} on {spec.backbone.name} of another size. Name the weights of a similar model, or "
        "leave train.init_from out."
    )
