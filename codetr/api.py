"""The Python interface: build, load, train and evaluate detectors in one call each."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from rich.console import Console

from codetr.document import locate
from codetr.engine.checkpoint import load_weights, read_meta, read_weights
from codetr.engine.distributed import choose_device
from codetr.engine.run_folder import find_checkpoint, find_run, run_and_checkpoint
from codetr.engine.session import RunResult, continued, run_training
from codetr.errors import Notice
from codetr.evaluation.dataset import dataset_named, evaluate_split
from codetr.evaluation.figures import Figures
from codetr.models.build import build as build_model
from codetr.models.collaborative import Collaborative
from codetr.prediction import Detector, Prediction
from codetr.spec import load_spec

__all__ = ["Detector", "Prediction", "RunResult", "build", "evaluate", "load_detector", "train"]

SpecLike = str | Path | Mapping[str, Any]


def build(spec: SpecLike, *, classes: int, overrides: Sequence[str] = (), pretrained: bool = False) -> Collaborative:
    """An untrained detector from a spec: a path, a zoo name or a mapping.

    classes: how many. overrides: `key=value`, as on the command line. pretrained: fetch the backbone's published
    weights if the spec has them. Its `.base` and `.heads` are plain modules.
    Raises: UserError if the spec is wrong, with every error at once.
    """
    return build_model(load_spec(spec, overrides), classes, pretrained=pretrained)


def load_detector(source: str | Path | None = None, *, overrides: Sequence[str] = (), device: str = "auto") -> Detector:
    """A trained detector.

    source: a run (its best checkpoint), a checkpoint folder, a .safetensors file, a spec (its newest run), or None for
    the newest run of all. overrides: changes to the spec that it was trained with, such as `eval.max_detections=300`.
    Raises: UserError if there is none, or it is damaged.
    """
    checkpoint = find_checkpoint(_run_or_file(source))
    meta, weights = read_meta(checkpoint), read_weights(checkpoint)
    spec = load_spec(meta.spec, overrides)
    if all(name.startswith("base.") for name in weights):  # stripped of what serves training only
        spec = spec.model_copy(update={"heads": {}})
    model = build_model(spec, len(meta.classes), pretrained=False)
    load_weights(model, weights, source=checkpoint)
    where = choose_device(device)
    return Detector(model.to(where).eval(), meta.classes, meta.category_ids, spec, where)


def train(
    spec: SpecLike | None = None,
    *,
    data: str | Path | None = None,
    overrides: Sequence[str] = (),
    out: str | Path | None = None,
    resume: str | Path | Literal[True] | None = None,
    max_steps: int | None = None,
    console: Console | None = None,
) -> RunResult:
    """Train a spec in a new run, or go on with one.

    data: a data set, short for the override `data=DIR`. out: the run's folder; default: runs/<name of the spec>.
    resume: a run, one of its checkpoints (newer ones are set aside), or True for the newest run (of this spec, if one
    is given). Without a spec a run goes on with its own; `overrides` apply to either. max_steps: stop after this step
    of the run.
    Raises: UserError for whatever is wrong with the spec, the data or the run.
    """
    settings = [*overrides, *([f"data={data}"] if data is not None else [])]
    if resume is None:
        if spec is None:
            raise ValueError("a spec is needed to start a run")
        document = load_spec(spec, settings)
        return run_training(document, name=document.document.name, out=_path(out), max_steps=max_steps, console=console)
    if out is not None:
        raise ValueError("a resumed run stays in its own folder: `out` cannot be given with `resume`")
    run, checkpoint = (find_run(name=_name(spec)), None) if resume is True else run_and_checkpoint(Path(resume))
    own = load_spec(run.spec)
    going_on = continued(load_spec(spec if spec is not None else run.spec, settings), run, own)
    return run_training(
        going_on, name=run.path.name, resume=run, checkpoint=checkpoint, max_steps=max_steps, console=console
    )


def evaluate(
    source: str | Path | None = None,
    *,
    dataset: str | Path | None = None,
    branch: str | None = None,
    max_detections: int | None = None,
    protocol: Literal["auto", "coco", "lvis"] | None = None,
    evaluator: Literal["hotcoco", "pycocotools"] | None = None,
    iou_type: Literal["bbox", "segm"] = "bbox",
    fixed: bool = False,
    overrides: Sequence[str] = (),
    device: str = "auto",
    start: Callable[[int], Callable[[int], None]] | None = None,
) -> Figures:
    """Figures of a trained detector on validation images: COCO's, or LVIS's where the annotations are federated.

    source, overrides: as for `load_detector`. dataset: instead of the one trained on, a folder, or the name of a known
    data set (coco, lvis, objects365). Other classes than the model's are matched by name; a warning says which are not.
    branch: `detr`, or the name of a head to evaluate on its own. max_detections, protocol, evaluator: instead of the
    spec's. iou_type: `segm` scores masks, of a head that predicts them. fixed: fixed AP, for LVIS.
    start: given the number of images, returns what to call with every number of images done.
    Raises: UserError if there is no such detector, data set or branch, or no class in common.
    """
    detector = load_detector(source, overrides=overrides, device=device)
    spec = detector.spec
    changes = {"branch": branch, "max_detections": max_detections, "protocol": protocol, "evaluator": evaluator}
    found = evaluate_split(
        detector.model,
        classes=detector.classes,
        category_ids=detector.category_ids,
        data=spec.data if dataset is None else dataset_named(spec.data, dataset),
        settings=spec.eval.model_copy(update={key: value for key, value in changes.items() if value is not None}),
        iou_type=iou_type,
        fixed=fixed,
        device=detector.device,
        start=start,
    )
    if not found.classes.complete:
        warnings.warn("; ".join(found.classes.describe()), Notice, stacklevel=2)
    return found.figures[iou_type]


def _run_or_file(source: str | Path | None) -> Path | None:
    """A spec stands for its newest run."""
    path = _path(source)
    if path is None or (path.exists() and path.suffix not in (".yaml", ".yml")):
        return path
    return find_run(name=_name(path)).path


def _name(spec: SpecLike | None) -> str | None:
    """Name of the runs of a spec."""
    if spec is None:
        return None
    return "spec" if isinstance(spec, Mapping) else locate(spec).stem


def _path(value: str | Path | None) -> Path | None:
    return None if value is None else Path(value)
