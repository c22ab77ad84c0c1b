"""A training run from its spec: data, model, run folder, loop."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn
from torch import nn

from codetr.data.coco import CocoDataset, open_split, require_same_classes
from codetr.data.loader import Loader, build_loader
from codetr.data.prepare import prepare
from codetr.engine.checkpoint import Meta, check_classes, read_meta
from codetr.engine.distributed import World, world
from codetr.engine.panel import (
    batch_line,
    device_line,
    listed,
    parameters_line,
    print_outcome,
    print_rows,
    schedule_line,
)
from codetr.engine.progress import TrainingProgress
from codetr.engine.run_folder import RunFolder, new_run
from codetr.engine.seed import seed_all
from codetr.engine.trainer import Figures, Outcome, Trainer
from codetr.errors import UserError
from codetr.evaluation.evaluators import open_evaluator
from codetr.evaluation.runner import check_branch, evaluate_model
from codetr.evaluation.truth import GroundTruth
from codetr.models.build import build
from codetr.models.collaborative import Collaborative
from codetr.registry import find
from codetr.spec import Spec, dump


@dataclass(frozen=True)
class RunResult:
    """path: the run's folder. outcome: how it ended, with the figures of the best checkpoint."""

    path: Path
    outcome: Outcome

    @property
    def figures(self) -> Mapping[str, float]:
        return self.outcome.figures


def run_training(
    spec: Spec,
    *,
    name: str,
    out: Path | None = None,
    resume: RunFolder | None = None,
    max_steps: int | None = None,
    console: Console | None = None,
) -> RunResult:
    """Train a spec in a new folder, or go on with a run.

    name: of the new folder under runs/, unless `out` is given. resume: the run to continue from its last checkpoint.
    Raises: UserError for anything that the user can mend, nearly always before the folder is made.
    """
    _require_masks(spec)
    if spec.train.threads is not None:
        torch.set_num_threads(spec.train.threads)
    console = console or Console()
    with world(spec.train.device) as ranks:
        data = open_data(spec, ranks, console)
        progress = TrainingProgress(console, epochs=spec.train.epochs, quiet=not ranks.leads)
        trainer = _trainer(spec, data, ranks, progress, resume=resume, name=name, out=out)
        folder = trainer.folder
        if ranks.leads:
            folder.describe(spec=dump(spec), command=sys.argv)
            print_rows(console, "plan", _plan(spec, trainer, data))
        outcome = trainer.run(max_steps=max_steps)
        if ranks.leads:
            print_outcome(console, outcome, folder.path)
        return RunResult(folder.path, outcome)


def _trainer(
    spec: Spec,
    data: CocoDataset,
    ranks: World,
    progress: TrainingProgress,
    *,
    resume: RunFolder | None,
    name: str,
    out: Path | None,
) -> Trainer:
    """Everything that the first step needs; what the user got wrong comes out here."""
    if resume is not None:
        check_classes(read_meta(resume.last), data.classes, checkpoint=resume.last, dataset=str(data.annotations))
    loader = training_loader(spec, data, ranks)
    seed_all(spec.train.seed)
    model = build(spec, len(data.classes), pretrained=resume is None).to(ranks.device)
    evaluate = _evaluation(spec, model, data, ranks, progress) if spec.train.eval_every is not None else None
    trainer = Trainer(
        model,
        loader,
        config=spec.train,
        world=ranks,
        folder=resume or RunFolder(ranks.from_leader(new_run(name, out=out).path if ranks.leads else None)),
        meta=_describe(spec, data, loader),
        progress=progress,
        evaluate=evaluate,
    )
    if resume is not None:
        trainer.resume()
    return trainer


def _require_masks(spec: Spec) -> None:
    """Raises: UserError if a head learns masks and the data are read without them."""
    if spec.data.masks:
        return
    for name, head in spec.heads.items():
        if find("heads", head.name).has_masks:
            raise UserError(
                f"heads.{name}: the head {head.name} learns masks, but data.masks is false. Set data.masks=true (each "
                "annotation then needs a `segmentation`), or use the head faster_rcnn, which needs boxes only."
            )


def open_data(spec: Spec, ranks: World, console: Console) -> CocoDataset:
    """The training images; a synthetic data set that is not there yet is rendered first, by one rank for all."""
    if ranks.leads:
        columns = (TextColumn("rendering the data set"), BarColumn(), MofNCompleteColumn())
        with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bar:
            task = bar.add_task("rendering", visible=False)
            prepare(spec.data, progress=lambda done, total: bar.update(task, completed=done, total=total, visible=True))
    ranks.from_leader(None)
    return open_split(spec.data, "train")


def training_loader(spec: Spec, data: CocoDataset, ranks: World) -> Loader:
    """This rank's pieces of the batch. Raises: UserError if the batch cannot be divided."""
    pieces = ranks.size * spec.train.accumulate
    if spec.train.batch_size % pieces:
        raise UserError(
            f"train.batch_size: {spec.train.batch_size} images cannot be divided among {ranks.size} ranks times "
            f"train.accumulate={spec.train.accumulate}; use a multiple of {pieces}."
        )
    return build_loader(
        data,
        spec.data,
        split="train",
        batch_size=spec.train.batch_size // pieces,
        seed=spec.train.seed,
        rank=ranks.rank,
        world_size=ranks.size,
    )


def _describe(spec: Spec, data: CocoDataset, loader: Loader) -> Meta:
    return Meta(
        classes=data.classes,
        category_ids=data.category_ids,
        spec=spec.model_dump(mode="json"),
        steps_per_epoch=-(-len(loader) // spec.train.accumulate),
    )


def _evaluation(
    spec: Spec, model: Collaborative, train: CocoDataset, ranks: World, progress: TrainingProgress
) -> Callable[[nn.Module], Figures]:
    """The validation images, opened once; each rank predicts its share of them.

    Raises: UserError if the split cannot be used, its classes are not those of training, or there is no such branch.
    """
    check_branch(model, spec.eval.branch)
    val = open_split(spec.data.model_copy(update={"masks": False}), "val")  # the truth has its own
    require_same_classes(train, val)
    truth = GroundTruth.load(val.annotations)
    evaluator = open_evaluator(spec.eval.evaluator, announce=progress.say)
    loader = build_loader(
        val,
        spec.data,
        split="val",
        batch_size=spec.eval.batch_size,
        seed=spec.train.seed,
        rank=ranks.rank,
        world_size=ranks.size,
    )

    def evaluate(evaluated: nn.Module) -> Figures:
        figures = evaluate_model(
            evaluated,  # type: ignore[arg-type]  # a copy of the wrapped model, if not itself
            loader,
            truth=truth,
            category_ids=train.category_ids,
            branch=spec.eval.branch,
            max_detections=spec.eval.max_detections,
            evaluator=evaluator,
            device=ranks.device,
            progress=progress.counter("evaluating", total=-(-len(val) // ranks.size)),
        )
        return figures.as_dict()

    return evaluate


def _plan(spec: Spec, trainer: Trainer, data: CocoDataset) -> dict[str, str]:
    steps, total = trainer.schedule.steps_per_epoch, trainer.schedule.total_steps
    rows = {
        "run": str(trainer.folder.path),
        "data": f"{data.annotations}, {len(data)} images",
        "classes": f"{len(data.classes)}: {listed(data.classes)}",
        "model": f"{spec.base.name} on {spec.backbone.name}",
        "heads": ", ".join(spec.heads) or "none",
        "parameters": parameters_line(trainer.model),
        "steps": f"{spec.train.epochs} epochs x {steps} = {total}",
        "batch": batch_line(spec.train, trainer.world),
        "lr": schedule_line(spec.train),
        "device": device_line(spec.train, trainer.world),
    }
    if trainer.step:
        rows["resumed"] = f"after step {trainer.step}"
    return rows


def continued(spec: Spec, run: RunFolder, before: Spec) -> Spec:
    """The spec with which a run goes on. Raises: UserError if it makes another model than that of the run."""
    old, new = before.model_dump(mode="json"), spec.model_dump(mode="json")
    changed = [
        key for key in ("base", "backbone", "neck", "criterion", "heads", "collaborative") if old[key] != new[key]
    ]
    if changed:
        raise UserError(
            f"{run.path}: the spec makes another model than the run has ({', '.join(changed)} changed), so the run "
            "cannot go on with it. Undo the change, or start a new run without --resume."
        )
    return spec
