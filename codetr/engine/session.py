"""A training run from its spec: data, model, run folder, loop."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from rich.console import Console

from codetr.data.coco import CocoDataset
from codetr.data.loader import Loader
from codetr.engine.checkpoint import Meta, check_classes, read_meta
from codetr.engine.checkpoints import set_aside
from codetr.engine.distributed import World, world
from codetr.engine.elastic import note_launch, restart_line, restarted_run
from codetr.engine.files import write_text
from codetr.engine.freezing import freeze
from codetr.engine.inputs import evaluation, open_data, require_possible, training_loader
from codetr.engine.log import MetricsLog
from codetr.engine.panel import device_line, print_outcome, print_rows
from codetr.engine.plan import eta_row, plan_rows
from codetr.engine.preflight import Preflight, preflight
from codetr.engine.progress import TrainingProgress
from codetr.engine.run_folder import RunFolder, new_run, step_of
from codetr.engine.seed import deterministic, seed_all
from codetr.engine.trainer import Outcome, Trainer
from codetr.errors import UserError
from codetr.models.build import build
from codetr.models.collaborative import Collaborative
from codetr.spec import Spec, dump
from codetr.weights.initialise import InitReport, brings_backbone, initialise


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
    checkpoint: Path | None = None,
    max_steps: int | None = None,
    console: Console | None = None,
) -> RunResult:
    """Train a spec in a new folder, or go on with a run.

    name: of the new folder under runs/, unless `out` is given. resume: the run to continue from its newest checkpoint,
    or from `checkpoint`; then newer ones are set aside.
    Raises: UserError for anything that the user can mend, nearly always before the folder is made.
    """
    require_possible(spec)
    if spec.train.threads is not None:
        torch.set_num_threads(spec.train.threads)
    console = console or Console()
    with deterministic(active=spec.train.deterministic), world(spec.train.device) as ranks:
        data = open_data(spec, ranks, console)
        progress = TrainingProgress(console, epochs=spec.train.epochs, quiet=not ranks.leads)
        given = resume
        before = restarted_run(ranks, name=name, out=out) if resume is None else resume
        blank = before is not None and ranks.from_leader(_is_blank(before) if ranks.leads else None)
        resume = None if blank else before
        if resume is not None:
            checkpoint = _checkpoint(resume, checkpoint, data, ranks)
        loader = training_loader(spec, data, ranks)
        model, report = _model(spec, data, ranks, resumed=resume is not None)
        evaluate = evaluation(spec, model, data, ranks, progress) if spec.train.eval_every is not None else None
        folder = resume or _folder(ranks, name=name, out=out, again=before)
        check = Preflight()
        if spec.train.preflight:
            check = preflight(spec, data, ranks, model=model, loader=loader, folder=folder.path)
        progress.workers = loader.workers
        note_launch(folder, ranks)
        trainer = Trainer(
            model,
            loader,
            config=spec.train,
            world=ranks,
            folder=folder,
            meta=_describe(spec, data, loader),
            progress=progress,
            evaluate=evaluate,
        )
        if checkpoint is not None:
            trainer.resume(checkpoint)
        if before is not None and before != given:
            progress.say(f"warning: {restart_line()}")
        elif blank:
            progress.say(f"{folder.path}: nothing was saved before the run was cut off. It starts again from step 1.")
        if ranks.leads:
            folder.describe(spec=dump(spec), command=sys.argv)
            rows = _plan(spec, trainer, data, report) | check.rows
            print_rows(console, "plan", rows | eta_row(trainer.steps_left, check.step))
            for warning in check.warnings:
                progress.say(f"warning: {warning}")
            if report is not None:
                write_text(folder.path / "init_from.txt", report.listing())
        outcome = trainer.run(max_steps=max_steps)
        if ranks.leads:
            print_outcome(console, outcome, folder.path)
        return RunResult(folder.path, outcome)


def _is_blank(run: RunFolder) -> bool:
    """Whether a run was cut off before anything was saved, and not that its checkpoints were taken away."""
    return not run.last.is_dir() and not run.best.is_dir()


def _checkpoint(run: RunFolder, chosen: Path | None, data: CocoDataset, ranks: World) -> Path:
    """The checkpoint to go on from; newer ones than a chosen one are set aside."""
    checkpoint = run.last if chosen is None else chosen
    check_classes(read_meta(checkpoint), data.classes, checkpoint=checkpoint, dataset=str(data.annotations))
    if chosen is not None and ranks.leads:
        set_aside(run, after=step_of(chosen))
    ranks.from_leader(None)
    return checkpoint


def _model(spec: Spec, data: CocoDataset, ranks: World, *, resumed: bool) -> tuple[Collaborative, InitReport | None]:
    """The model on its device, with its first weights unless a checkpoint brings them, and frozen parts."""
    source = None if resumed else spec.train.init_from
    pretrained = not resumed and not (source is not None and brings_backbone(source, spec))
    seed_all(spec.train.seed)
    model = build(spec, len(data.classes), pretrained=pretrained)
    report = None if source is None else initialise(model, spec, data.classes, source)
    freeze(model, spec.train.freeze)
    return model.to(ranks.device), report


def _folder(ranks: World, *, name: str, out: Path | None, again: RunFolder | None) -> RunFolder:
    """Of a new run, or of the run `again`, which was cut off before anything of it was saved."""
    if again is None:
        return RunFolder(ranks.from_leader(new_run(name, out=out).path if ranks.leads else None))
    if ranks.leads:
        MetricsLog(again.metrics).truncate(0)
    return again


def _describe(spec: Spec, data: CocoDataset, loader: Loader) -> Meta:
    return Meta(
        classes=data.classes,
        category_ids=data.category_ids,
        spec=spec.model_dump(mode="json"),
        steps_per_epoch=-(-len(loader) // spec.train.accumulate),
    )


def _plan(spec: Spec, trainer: Trainer, data: CocoDataset, report: InitReport | None) -> dict[str, str]:
    model, steps = trainer.model, trainer.schedule.steps_per_epoch
    assert isinstance(model, Collaborative)
    device = device_line(trainer.world)
    rows = {"run": str(trainer.folder.path)}
    rows |= plan_rows(spec, data, model=model, ranks=trainer.world, steps_per_epoch=steps, device=device)
    if report is not None:
        rows["start"] = report.line()
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
