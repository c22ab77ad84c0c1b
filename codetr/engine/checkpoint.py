"""A checkpoint is a folder: model.safetensors (weights), meta.json (what they are), state.pt (what resuming needs)."""

from __future__ import annotations

import json
import pickle
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
import torch
from torch import Tensor, nn

from codetr.engine.files import replaced_folder
from codetr.errors import UserError

MODEL, META, STATE = "model.safetensors", "meta.json", "state.pt"


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
    folder: Path, weights: Mapping[str, Tensor], meta: Meta, *, state: Mapping[str, Any] | None = None
) -> None:
    """Write a checkpoint, replacing an older one in the same place only when the new one is complete.

    weights: a state dictionary. state: tensors, numbers, strings and containers of them.
    """
    with replaced_folder(folder) as fresh:
        save_weights(fresh / MODEL, weights, meta)
        (fresh / META).write_text(meta.text(), encoding="utf-8")
        if state is not None:
            torch.save(dict(state), fresh / STATE)


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
        raise UserError(
            f"{path}: no checkpoint here: {MODEL} is missing. Name a run or one of its checkpoints folders."
        )
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
    """State dictionary of a checkpoint folder or .safetensors file, shared parameters under all of their names."""
    model = path / MODEL if path.is_dir() else path
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
    model.load_state_dict(weights)


def read_state(folder: Path) -> dict[str, Any]:
    """What resuming needs, tensors on the CPU. Nothing is executed from the file."""
    path = folder / STATE
    if not path.is_file():
        raise UserError(
            f"{folder}: nothing to resume from: {STATE} is missing. Resume from `checkpoints/last` of a run."
        )
    try:
        state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
    except (RuntimeError, EOFError, OSError, pickle.UnpicklingError, ValueError) as error:
        raise UserError(_damaged(path, str(error).splitlines()[0] if str(error) else type(error).__name__)) from error
    return state


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


def _damaged(path: Path, reason: str) -> str:
    return f"{path}: the file is damaged or was cut short: {reason}. Use another checkpoint of the run."
