"""A checkpoint is a folder: model.safetensors (weights), meta.json (what they are), state/ (what resuming needs beside
them, as .safetensors files), checksums.json (SHA-256 of the others). Nothing in it is executed when it is read."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
from torch import Tensor, nn

from codetr.engine.files import replaced_folder
from codetr.errors import UserError

MODEL, META, STATE, SUMS = "model.safetensors", "meta.json", "state", "checksums.json"


@dataclass(frozen=True)
class Meta:
    """What the weights of a checkpoint are.

    classes, category_ids: names and ids of the data set's categories in the order of the model's class indices.
    spec: the resolved spec. epoch, step: how many of each are done. figures: its evaluation, if there was one.
    """

    classes: tuple[str, ...]
    category_ids: tuple[int, ...]
    spec: Mapping[str, Any]
    epoch: int = 0
    step: int = 0
    steps_per_epoch: int = 0
    figures: Mapping[str, float] = field(default_factory=dict)

    def at(self, step: int, figures: Mapping[str, float] | None = None) -> Meta:
        """The same after a number of steps; epochs count from 1 for the first, begun ones too."""
        epoch = -(-step // self.steps_per_epoch) if self.steps_per_epoch else 0
        return replace(self, step=step, epoch=epoch, figures=figures or {})

    def text(self) -> str:
        return json.dumps(asdict(self), indent=2)

    @classmethod
    def parse(cls, text: str, *, source: Path) -> Meta:
        """Raises: UserError if the text is no description of a checkpoint."""
        try:
            values = json.loads(text)
            values["classes"] = tuple(str(name) for name in values["classes"])
            values["category_ids"] = tuple(int(number) for number in values["category_ids"])
            return cls(**values)
        except (json.JSONDecodeError, KeyError, TypeError, ValueError) as error:
            raise UserError(_damaged(source, f"it does not describe a checkpoint ({error})")) from error


def save_checkpoint(
    folder: Path, weights: Mapping[str, Tensor], meta: Meta, *, state: Mapping[str, Tensor] | None = None
) -> None:
    """Write a checkpoint, replacing an older one in the same place only when the new one is complete.

    weights: a state dictionary. state: what resuming needs beside them, tensors by name.
    """
    with replaced_folder(folder) as fresh:
        if state is not None:
            (fresh / STATE).mkdir()
            tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in state.items()}
            safetensors.torch.save_file(tensors, fresh / STATE / "state.safetensors")
        complete(fresh, weights, meta)


def complete(fresh: Path, weights: Mapping[str, Tensor], meta: Meta) -> None:
    """Add weights, description and checksums to a folder that has the state, or none, already."""
    save_weights(fresh / MODEL, weights, meta)
    (fresh / META).write_text(meta.text(), encoding="utf-8")
    sums = {name: _checksum(fresh / name) for name in _files(fresh)}
    (fresh / SUMS).write_text(json.dumps(sums, indent=2) + "\n", encoding="utf-8")


def verify(folder: Path) -> None:
    """Compare every file of a checkpoint with its checksum.

    Raises: UserError naming the first file that is missing, was cut short, or is not as it was written.
    """
    if not (folder / MODEL).is_file():
        raise UserError(_absent(folder))
    sums = _checksums(folder)
    if sums is None:
        raise UserError(_damaged(folder / SUMS, "it is missing"))
    for name in sorted({*sums, *_files(folder)} - {SUMS}):
        _verify_file(folder, name, sums)


def _verify_file(folder: Path, name: str, sums: Mapping[str, str]) -> None:
    if not (folder / name).is_file():
        raise UserError(_damaged(folder / name, "it is missing"))
    if _checksum(folder / name) != sums.get(name):
        raise UserError(_damaged(folder / name, "its content is not what was written"))


def _files(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


def _checksums(folder: Path) -> dict[str, str] | None:
    """SHA-256 by file; None for a folder without any (made from single files)."""
    if not (folder / SUMS).is_file():
        return None
    try:
        return {str(name): str(value) for name, value in json.loads((folder / SUMS).read_text("utf-8")).items()}
    except (ValueError, AttributeError) as error:
        raise UserError(_damaged(folder / SUMS, f"it is no list of checksums ({error})")) from error


def _checksum(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(2**22):
            digest.update(block)
    return digest.hexdigest()


def save_weights(path: Path, weights: Mapping[str, Tensor], meta: Meta) -> None:
    """A state dictionary as safetensors, with the description embedded.

    Shared parameters appear in a state dictionary under several names: each is written once, under the first of them.
    """
    first: dict[tuple[Any, ...], str] = {}
    aliases: dict[str, str] = {}
    tensors: dict[str, Tensor] = {}
    for name, tensor in weights.items():
        # An empty tensor has no storage to share.
        place = (tensor.data_ptr(), tensor.shape, tensor.stride(), tensor.dtype) if tensor.numel() else (name,)
        if place in first:
            aliases[name] = first[place]
        else:
            first[place] = name
            tensors[name] = tensor.detach().cpu().contiguous().clone()
    metadata = {"format": "pt", "codetr": meta.text(), "aliases": json.dumps(aliases)}
    safetensors.torch.save_file(tensors, path, metadata=metadata)


def read_meta(path: Path) -> Meta:
    """Description of a checkpoint folder or of a .safetensors file (embedded, or in meta.json beside it).

    Raises: UserError if there is none, or the file is damaged.
    """
    folder, model = (path, path / MODEL) if path.is_dir() else (path.parent, path)
    if not model.is_file():
        raise UserError(_absent(path))
    embedded = _metadata(model).get("codetr")
    if embedded is not None:
        return Meta.parse(embedded, source=model)
    beside = folder / META
    if not beside.is_file():
        raise UserError(
            f"{model}: nothing says which model these weights belong to: no description is embedded and there is no "
            f"{META} beside the file. Use a file written by `codetr train` or `codetr convert`."
        )
    return Meta.parse(beside.read_text(encoding="utf-8"), source=beside)


def read_weights(path: Path) -> dict[str, Tensor]:
    """State dictionary of a checkpoint folder or .safetensors file, shared parameters under all of their names.

    Raises: UserError if the file is damaged, or not as its checkpoint has written it.
    """
    model = path / MODEL if path.is_dir() else path
    if path.is_dir() and model.is_file() and (sums := _checksums(path)) is not None:
        _verify_file(path, MODEL, sums)
    try:
        tensors = safetensors.torch.load_file(model)
    except (safetensors.SafetensorError, OSError) as error:
        raise UserError(_damaged(model, str(error))) from error
    aliases: dict[str, str] = json.loads(_metadata(model).get("aliases", "{}"))
    return tensors | {name: tensors[original] for name, original in aliases.items()}


def load_weights(model: nn.Module, weights: Mapping[str, Tensor], *, source: Path) -> None:
    """Copy a state dictionary into a model of the same architecture. source: named in errors.

    Raises: UserError naming what is missing, left over or of another shape.
    """
    check_fits(model, weights, source=source)
    model.load_state_dict(weights)


def check_fits(model: nn.Module, weights: Mapping[str, Tensor], *, source: Path) -> None:
    """Raises: UserError naming what is missing, left over or of another shape than in the model."""
    own = model.state_dict()
    problems = [
        *(f"{name} is missing" for name in own if name not in weights),
        *(f"{name} is not part of the model" for name in weights if name not in own),
        *(
            f"{name} has shape {tuple(weights[name].shape)}, the model {tuple(own[name].shape)}"
            for name in own
            if name in weights and weights[name].shape != own[name].shape
        ),
    ]
    if problems:
        shown = "\n  ".join(problems[:8]) + (f"\n  and {len(problems) - 8} more" if len(problems) > 8 else "")
        raise UserError(
            f"{source}: these weights do not fit the model:\n  {shown}\nUse the spec that they were trained with."
        )


def state_folder(checkpoint: Path) -> Path:
    """Where the state lies that resuming needs. Raises: UserError if the checkpoint has none."""
    folder = checkpoint / STATE
    if not folder.is_dir():
        raise UserError(
            f"{checkpoint}: nothing to resume from: it has no {STATE}/. Resume one of the checkpoints/step_* of a run."
        )
    return folder


def check_classes(meta: Meta, classes: tuple[str, ...], *, checkpoint: Path, dataset: str) -> None:
    """Raises: UserError if a checkpoint was trained for other classes than those of a data set, saying both."""
    if meta.classes == classes:
        return
    raise UserError(
        f"{checkpoint} was trained for {_listed(meta.classes)}; {dataset} has {_listed(classes)}. "
        "Use a data set with the same categories, or train on this one."
    )


def _listed(classes: tuple[str, ...]) -> str:
    names = ", ".join(classes[:8]) + (", ..." if len(classes) > 8 else "")
    return f"{len(classes)} {'class' if len(classes) == 1 else 'classes'} ({names})"


def _metadata(model: Path) -> dict[str, str]:
    try:
        with safetensors.safe_open(model, framework="pt") as file:
            return dict(file.metadata() or {})
    except (safetensors.SafetensorError, OSError) as error:
        raise UserError(_damaged(model, str(error))) from error


def _absent(path: Path) -> str:
    return f"{path}: no checkpoint here: {MODEL} is missing. Name a run or one of its checkpoints folders."


def _damaged(path: Path, reason: str) -> str:
    return f"{path}: the file is damaged or was cut short: {reason}. Use another checkpoint of the run."
